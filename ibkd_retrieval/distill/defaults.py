"""What a `DistillConfig` leaves open, decided in one place: by the kind of student, the preset, and what goes together.

Numbers that no kind of student changes are the defaults of the fields in `recipe`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any, NamedTuple

from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, DistillConfig
from ibkd_retrieval.distill.objectives.table import TEXT_BY_TEXT, WITHOUT_PROJECTION
from ibkd_retrieval.distill.recipe import (
    DistillSettings,
    FinetuneSettings,
    MiningSettings,
    ObjectiveSettings,
    StudentPlan,
)
from ibkd_retrieval.errors import UserError

STAGES = ("distill", "finetune", "both")


def check_stage(stage: str, settings: DistillSettings, pairs: object | None, teachers: int = 1) -> None:
    """Make sure that a stage has what it needs.

    Args:
        stage: as the user named it.
        settings: the recipe of stage 1.
        pairs: what stage 2 learns from, if anything.
        teachers: how many there are.

    Raises:
        UserError: it is unknown, lacks pairs or has no use for them, or its students would live in a space that they
            leave or that no index is in.
    """
    if stage not in STAGES:
        raise UserError(f"Unknown stage `{stage}`: use one of {', '.join(STAGES)}.")
    if teachers > 1 and settings.output_space == "teacher":
        raise UserError(
            '`output_space="teacher"` is for one teacher, whose index the student can search; none holds the vectors '
            f"of {teachers} side by side: leave `output_space` out."
        )
    if stage == "distill":
        if pairs is not None:
            raise UserError('`pairs` is for fine-tuning: give `stage="finetune"` or `stage="both"` too.')
        return
    if pairs is None:
        raise UserError(f'`stage="{stage}"` learns from pairs of query and passage: name them with `pairs`.')
    if settings.output_space == "teacher":
        raise UserError(
            f'`stage="{stage}"` moves the student away from the teacher\'s space: leave `output_space` out, or use '
            '`stage="distill"`.'
        )


def usual_objective(plan: StudentPlan, output_space: str) -> str:
    """What was best on dev sets, in short runs, for a kind of student: `kl` for a small model in a space of its own."""
    return "kl" if plan.trained_before and output_space == "student" else "ibkd"


_NARROW = 384
"""Width of the teachers that the rate for layers was measured with."""


def usual_learning_rate(plan: StudentPlan, output_space: str, width: int | None = None) -> float:
    """The peak for a kind of student: a good one forgets what it knows long before it learns at another's rate.

    For layers of a teacher it falls with the teacher's width: 2e-3 at 384 dimensions, 1e-3 at 768.
    """
    if not plan.trained_before:
        return 2e-3 * min(1.0, _NARROW / (width or _NARROW)) if plan.model is None else 1e-2
    if plan.pooling is not None:  # A plain encoder, which knows nothing of sentences yet.
        return 1e-3
    return 5e-5 if output_space == "student" else 3e-4


def usual_merge(plan: StudentPlan, output_space: str) -> float:
    """The share of its weights that a kind of student keeps: half where it could encode texts before, in its space."""
    return 0.5 if plan.could_encode and output_space == "student" else 0.0


def with_preset(
    settings: DistillSettings, name: str | None, plan: StudentPlan, keep: Collection[str] = ()
) -> DistillSettings:
    """`settings` with the preset of a name, None for none; what is in `keep` stays as it is.

    Raises:
        UserError: no preset of that name.
    """
    if name is None:
        return settings
    if name == "thorough":
        return thorough_preset(settings, plan, keep)
    if name == "paper":
        return paper_preset(settings, keep)
    raise UserError(f"Unknown preset `{name}`: use thorough or paper.")


def paper_preset(settings: DistillSettings, keep: Collection[str] = ()) -> DistillSettings:
    """The published STS settings of stage 1 (arXiv 2311.05472): lambda 0.2, tau 1, gamma 1, batch 256, lr 1e-4.

    Args:
        settings: what the publication does not say stays as it is.
        keep: names of settings, the objective's among them, that stay as they are too.
    """
    published: dict[str, Any] = {
        "objective": "ibkd",
        "batch_size": 256,
        "bank_size": 0,
        "learning_rate": 1e-4,
        "projection_learning_rate": 1e-4,
        "max_length": 128,
        "projection": "trained",
        "merge": 0.0,
    }
    terms: dict[str, Any] = {
        "temperature": 1.0,
        "hsic_weight": 0.2,
        "hsic_bandwidth": 1.0,
        "hsic_estimator": "biased",
    }
    return preset(settings, published, terms, keep)


def preset(
    settings: DistillSettings, values: dict[str, Any], terms: dict[str, Any], keep: Collection[str]
) -> DistillSettings:
    """`settings` with other `values`, and with other `terms` of the objective, but where a name is in `keep`."""
    return replace(
        settings,
        **{name: value for name, value in values.items() if name not in keep},
        objective_settings=replace(
            settings.objective_settings, **{name: value for name, value in terms.items() if name not in keep}
        ),
    )


def paper_finetuning(settings: FinetuneSettings, keep: Collection[str] = ()) -> FinetuneSettings:
    """The published STS settings of stage 2 (arXiv 2311.05472): lambda 1, tau 0.05, gamma 1, batch 128, lr 1e-6.

    It runs for 3 epochs there; steps are the caller's.

    Args:
        settings: what the publication does not say stays as it is.
        keep: names of settings that stay as they are too.
    """
    published: dict[str, Any] = {
        "batch_size": 128,
        "learning_rate": 1e-6,
        "temperature": 0.05,
        "hsic_weight": 1.0,
        "hsic_bandwidth": 1.0,
        "hsic_estimator": "biased",
        "max_length": 128,
    }
    return replace(settings, **{name: value for name, value in published.items() if name not in keep})


def thorough_preset(settings: DistillSettings, plan: StudentPlan, keep: Collection[str] = ()) -> DistillSettings:
    """For much text: long, with many negatives; and a student that was trained before may become another.

    Such a one learns by `ibkd`, at a high rate, with W trained and nothing merged, which took paraphrase-MiniLM-L3-v2
    from 77.5 % to 89.6 % of all-mpnet-base-v2; the usual recipe takes it to 78.9 % (docs/reproduction.md).

    Args:
        settings: what is not part of it stays as it is.
        plan: how the student is initialised.
        keep: names of settings, the objective's among them, that stay as they are too.
    """
    values: dict[str, Any] = {"steps": 3000, "bank_size": 16_384, "max_length": 256}
    if plan.could_encode and settings.output_space == "student":
        values |= {"objective": "ibkd", "learning_rate": 5e-4, "projection": "trained", "merge": 0.0}
    # None is the objective's own.
    return preset(settings, values, {"temperature": None}, keep)


def projection_for(settings: DistillSettings, plan: StudentPlan, dim: int, teacher_dim: int) -> str:
    """Which projection `auto` is for a student.

    Args:
        settings: the recipe.
        plan: how the student is initialised.
        dim: of the student's vectors.
        teacher_dim: of the teacher's.

    Raises:
        UserError: an isometry is asked for from more dimensions to fewer.
    """
    if settings.projection == "isometry" and dim > teacher_dim:
        raise UserError(
            f'`projection="isometry"` keeps all {dim} dimensions of the student, and the teacher has {teacher_dim}: '
            f'give `projection="trained"`, or `dim={teacher_dim}` or less.'
        )
    if settings.projection != "auto":
        return settings.projection
    # A least-squares map would first make a student that was trained before forget: all-MiniLM-L6-v2 goes from 0.660
    # to 0.609 nDCG@10 on SciFact's training queries by it alone. Layers cut out of a teacher have little to forget.
    keeps = plan.trained_before and settings.output_space == "student" and dim <= teacher_dim
    return "isometry" if keeps else "trained"


class Recipe(NamedTuple):
    """A configuration with everything decided that the models need not be loaded for."""

    plan: StudentPlan
    settings: DistillSettings
    finetuning: FinetuneSettings


def recipe_of(config: DistillConfig) -> Recipe:
    """Decide what a configuration leaves open. The learning rate of layers waits for the teacher's width.

    Raises:
        UserError: a value is outside its range, or values contradict each other.
    """
    given = config.given()
    _check_given(given, config.stage)
    plan = _plan(config)
    space = config.student.output_space
    frozen = config.student.freeze_embeddings
    shared: dict[str, Any] = {
        "freeze_embeddings": config.student.model is None if frozen is None else frozen,
        "dims": config.student.dims,
        "seed": config.training.seed,
        "dtype": config.training.dtype,
    }
    asked = {name: value for name, value in given.items() if value != ()}
    terms = ObjectiveSettings(**_of(ObjectiveSettings, asked))
    by_kind: dict[str, Any] = {"objective": usual_objective(plan, space), "merge": usual_merge(plan, space)}
    settings = DistillSettings(**(by_kind | shared | _of(DistillSettings, asked)), objective_settings=terms)
    settings = with_preset(settings, config.preset, plan, given)
    tuning = {name.removeprefix("finetune_"): value for name, value in asked.items() if name in _STAGE_2}
    both: dict[str, Any] = {name: asked[name] for name in _BOTH_STAGES if name in asked}
    follow: dict[str, Any] = {
        "max_length": settings.max_length,
        "hsic_bandwidth": settings.objective_settings.hsic_bandwidth,
        "mining": _mining(asked),
    }
    finetuning = FinetuneSettings(**(follow | shared | both | _of(FinetuneSettings, tuning)))
    if config.preset == "paper":
        finetuning = paper_finetuning(finetuning, {*tuning, *both})
    _check_effect(given, finetuning)
    return Recipe(plan, settings, finetuning)


_BOTH_STAGES = (
    *("accumulate", "max_length", "hsic_bandwidth", "hsic_estimator"),
    *("eval_every", "checkpoint_every", "patience"),
)
_STAGE_1 = (
    *("objective", "projection", "steps", "batch_size", "bank_size", "learning_rate", "merge"),
    *("temperature", "hsic_weight"),
)
_STAGE_2 = (
    *(f"finetune_{name}" for name in FINETUNE_PREFIXED),
    "negatives",
    "negative_ranks",
    "negative_margin",
    "soft_labels",
    "soft_weight",
)


def _of(settings: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(settings)}
    return {name: value for name, value in values.items() if name in names}


def _plan(config: DistillConfig) -> StudentPlan:
    """Two layers of the teacher and 128 dimensions, where nothing else is asked for."""
    student = config.student
    layers, dim = student.layers, student.dim
    if student.model is None:
        layers, dim = layers or 2, dim if dim is not None or student.dims else 128
    return StudentPlan(student.model, layers, dim or None, student.pooling)


def _mining(asked: dict[str, Any]) -> MiningSettings:
    given = {"margin": asked["negative_margin"]} if "negative_margin" in asked else {}
    first, last = asked.get("negative_ranks", (MiningSettings.first, MiningSettings.last))
    return MiningSettings(first, last, **given)


def _check_given(given: Collection[str], stage: str) -> None:
    """Refuse parameters of a stage that is left out."""
    both = '`stage="both"`'
    unused, purpose, instead = {
        "distill": (("pairs", *_STAGE_2), "fine-tuning", f'`stage="finetune"` or {both}'),
        "finetune": (_STAGE_1, "distilling", both),
    }.get(stage, ((), "", ""))
    wrong = [name for name in unused if name in given]
    if not wrong:
        return
    twins = [f"`finetune_{name}`" for name in wrong if name in FINETUNE_PREFIXED] if stage == "finetune" else []
    raise UserError(
        f"{', '.join(f'`{name}`' for name in wrong)} {'are' if len(wrong) > 1 else 'is'} for {purpose}: give {instead} "
        f"too{', or ' + ', '.join(twins) if twins else ''}."
    )


def _check_effect(given: Collection[str], finetuning: FinetuneSettings) -> None:
    """Refuse parameters of fine-tuning that change nothing beside the others."""
    idle = {"soft_weight": "without `soft_labels`"} if finetuning.soft_labels is None else {}
    if not finetuning.negatives:
        idle |= dict.fromkeys(("negative_ranks", "negative_margin"), "with `negatives=0`")
    for name, how in idle.items():
        if name in given:
            raise UserError(f"`{name}` changes nothing {how}: leave it out.")


def unread(given: Collection[str], stage: str, objective: str) -> tuple[str, ...]:
    """The parameters among `given` that the objective does not read.

    They are no mistake: a comparison of objectives gives all of them the same.
    """
    if stage == "finetune":
        return ()
    names = ["bank_size", "temperature"] if objective in TEXT_BY_TEXT else []
    names += ["projection"] if objective in WITHOUT_PROJECTION else []
    if objective != "ibkd":
        names += ["hsic_weight"] if stage == "both" else ["hsic_weight", "hsic_bandwidth", "hsic_estimator"]
    return tuple(name for name in names if name in given)


_USUAL_CORPUS = "pydocs:train"


def text_sources(config: DistillConfig) -> tuple[Any, Any, Any]:
    """Corpus, queries and dev queries; with the embedded corpus, its own queries unless others are given."""
    data = config.data
    corpus = _USUAL_CORPUS if data.corpus is None else data.corpus
    own = _USUAL_CORPUS if isinstance(corpus, str) and corpus.split(":")[0] == "pydocs" else None
    queries = own if data.queries is None else data.queries
    return corpus, queries, own if data.dev is None else data.dev


def decided(
    config: DistillConfig, plan: StudentPlan, settings: DistillSettings, tuning: FinetuneSettings | None
) -> Any:
    """The configuration that repeats a run whatever the defaults become: all that its stage reads is spelled out."""
    corpus, queries, dev = text_sources(config)
    terms, mining = settings.objective_settings, tuning.mining if tuning else None
    found: dict[str, Any] = {"corpus": corpus, "queries": queries, "dev": dev}
    found |= {"student": plan.model, "layers": plan.layers, "dim": plan.dim or 0, "pooling": plan.pooling}
    found |= {
        name: getattr(settings, name)
        for name in (*_BOTH_STAGES, *_STAGE_1, "freeze_embeddings")
        if hasattr(settings, name)
    }
    found |= {name: getattr(terms, name) for name in ("temperature", "hsic_weight", "hsic_bandwidth", "hsic_estimator")}
    if config.stage == "finetune":
        found = {name: value for name, value in found.items() if name not in _STAGE_1}
    if tuning is not None and config.stage != "distill":
        found |= {f"finetune_{name}": getattr(tuning, name) for name in FINETUNE_PREFIXED}
        found |= {name: getattr(tuning, name) for name in ("negatives", "soft_labels")}
        found |= {"soft_weight": tuning.soft_weight} if tuning.soft_labels is not None else {}
        if tuning.negatives and mining is not None:
            found |= {"negative_ranks": (mining.first, mining.last), "negative_margin": mining.margin}
    idle = set(unread(found, config.stage, settings.objective)) - set(config.given())
    return config.with_parameters(**{name: value for name, value in found.items() if name not in idle})
