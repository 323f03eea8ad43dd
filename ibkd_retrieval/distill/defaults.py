"""The defaults of a `DistillConfig` that depend on the kind of student or on the preset.

Defaults that depend on neither are the field defaults in `recipe`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any, NamedTuple

from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, DistillConfig
from ibkd_retrieval.distill.objectives import TEXT_BY_TEXT, WITHOUT_PROJECTION
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
    """Check that a stage has the inputs it needs.

    Args:
        stage: name of the stage.
        settings: the recipe of stage 1.
        pairs: the training pairs of stage 2, or None.
        teachers: number of teachers.

    Raises:
        UserError: the stage is unknown, lacks pairs or does not use them, or cannot keep the student in the teacher's
            space.
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
    """The default objective for a kind of student. It was the best on dev sets in short runs."""
    return "kl" if plan.trained_before and output_space == "student" else "ibkd"


def usual_regression_weight(plan: StudentPlan, objective: str) -> float:
    """The default weight of the regression: 5 for layers of a teacher (benchmarks/regression_term.py).

    The objectives other than `ibkd` are baselines, and stay as they are published.
    """
    return 5.0 if objective == "ibkd" and plan.model is None else 0.0


_NARROW = 384
"""Hidden size of the teachers on which the learning rate for layers was tuned."""


def usual_learning_rate(plan: StudentPlan, output_space: str, width: int | None = None) -> float:
    """The default peak learning rate for a kind of student. A pretrained encoder needs a low one, or it forgets.

    For layers of a teacher the rate falls with the teacher's hidden size: 2e-3 at 384, 1e-3 at 768.
    """
    if not plan.trained_before:
        return 2e-3 * min(1.0, _NARROW / (width or _NARROW)) if plan.model is None else 1e-2
    if plan.pooling is not None:  # A plain encoder, not yet trained for sentence vectors.
        return 1e-3
    return 5e-5 if output_space == "student" else 3e-4


def usual_merge(plan: StudentPlan, output_space: str) -> float:
    """The default `merge`: 0.5 for a pretrained text encoder that keeps its own vector space, otherwise 0."""
    return 0.5 if plan.could_encode and output_space == "student" else 0.0


def with_preset(
    settings: DistillSettings, name: str | None, plan: StudentPlan, keep: Collection[str] = ()
) -> DistillSettings:
    """Apply a preset by name to `settings`. None changes nothing, and names in `keep` keep their values.

    Raises:
        UserError: the preset is unknown.
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
        settings: the recipe to change. Settings that the paper does not give stay unchanged.
        keep: names of further settings, including the objective's, that stay unchanged.
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
        "regression_weight": 0.0,
        "hsic_weight": 0.2,
        "hsic_bandwidth": 1.0,
        "hsic_estimator": "biased",
    }
    return preset(settings, published, terms, keep)


def preset(
    settings: DistillSettings, values: dict[str, Any], terms: dict[str, Any], keep: Collection[str]
) -> DistillSettings:
    """Replace `values` of the recipe and `terms` of the objective, except for names in `keep`."""
    return replace(
        settings,
        **{name: value for name, value in values.items() if name not in keep},
        objective_settings=replace(
            settings.objective_settings, **{name: value for name, value in terms.items() if name not in keep}
        ),
    )


def paper_finetuning(settings: FinetuneSettings, keep: Collection[str] = ()) -> FinetuneSettings:
    """The published STS settings of stage 2 (arXiv 2311.05472): lambda 1, tau 0.05, gamma 1, batch 128, lr 1e-6.

    The paper trains for 3 epochs. The caller sets the steps.

    Args:
        settings: the recipe to change. Settings that the paper does not give stay unchanged.
        keep: names of further settings that stay unchanged.
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
    """A preset for large corpora: more steps, more negatives and longer texts.

    A pretrained student may move far from its start: it learns by `ibkd`, at a high rate, with W trained and without
    merging. This took paraphrase-MiniLM-L3-v2 from 77.5 % to 89.6 % of all-mpnet-base-v2. The usual recipe takes it to
    78.9 % (docs/reproduction.md).

    Args:
        settings: the recipe to change.
        plan: how the student is initialised.
        keep: names of settings, including the objective's, that stay unchanged.
    """
    values: dict[str, Any] = {"steps": 3000, "bank_size": 16_384, "max_length": 256}
    if plan.could_encode and settings.output_space == "student":
        values |= {"objective": "ibkd", "learning_rate": 5e-4, "projection": "trained", "merge": 0.0}
    # None is the objective's default temperature.
    return preset(settings, values, {"temperature": None}, keep)


def projection_for(settings: DistillSettings, plan: StudentPlan, dim: int, teacher_dim: int) -> str:
    """Decide the projection where the settings say "auto".

    Args:
        settings: the recipe.
        plan: how the student is initialised.
        dim: dimensions of the student's vectors.
        teacher_dim: dimensions of the teacher's vectors.

    Raises:
        UserError: `projection` is "isometry" and the student has more dimensions than the teacher.
    """
    if settings.projection == "isometry" and dim > teacher_dim:
        raise UserError(
            f'`projection="isometry"` keeps all {dim} dimensions of the student, and the teacher has {teacher_dim}: '
            f'give `projection="trained"`, or `dim={teacher_dim}` or less.'
        )
    if settings.projection != "auto":
        return settings.projection
    # A least-squares map alone makes a pretrained student worse: all-MiniLM-L6-v2 falls from 0.660 to 0.609 nDCG@10 on
    # SciFact's training queries. Layers cut out of a teacher have little to lose.
    keeps = plan.trained_before and settings.output_space == "student" and dim <= teacher_dim
    return "isometry" if keeps else "trained"


class Recipe(NamedTuple):
    """A configuration with every choice made that does not need the models."""

    plan: StudentPlan
    settings: DistillSettings
    finetuning: FinetuneSettings


def recipe_of(config: DistillConfig) -> Recipe:
    """Fill in the defaults of a configuration. The learning rate for layers is set later, from the teacher's width.

    Raises:
        UserError: a value is outside its range, or values contradict each other.
    """
    given = config.given()
    _check_given(given, config.stage)
    if (config.data.synthetic_queries or 0) < 0:
        raise UserError(f"`synthetic_queries` is {config.data.synthetic_queries}: give a number from 0 up.")
    plan = _plan(config)
    space = config.student.output_space
    frozen = config.student.freeze_embeddings
    shared: dict[str, Any] = {
        "freeze_embeddings": config.student.model is None if frozen is None else frozen,
        "dims": config.student.dims,
        "seed": config.training.seed,
        "dtype": config.training.dtype,
    }
    explicit = {name: value for name, value in given.items() if value != ()}
    terms = ObjectiveSettings(**_of(ObjectiveSettings, explicit))
    by_kind: dict[str, Any] = {"objective": usual_objective(plan, space), "merge": usual_merge(plan, space)}
    settings = DistillSettings(**(by_kind | shared | _of(DistillSettings, explicit)), objective_settings=terms)
    settings = with_preset(settings, config.preset, plan, given)
    if config.preset != "paper":
        weight = usual_regression_weight(plan, settings.objective)
        settings = preset(settings, {}, {"regression_weight": weight}, given)
    tuning = {name.removeprefix("finetune_"): value for name, value in explicit.items() if name in _STAGE_2}
    both: dict[str, Any] = {name: explicit[name] for name in _BOTH_STAGES if name in explicit}
    follow: dict[str, Any] = {
        "max_length": settings.max_length,
        "hsic_bandwidth": settings.objective_settings.hsic_bandwidth,
        "mining": _mining(explicit),
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
    *("temperature", "regression_weight", "hsic_weight", "synthetic_queries"),
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
    """The student's plan. The default is two layers of the teacher and 128 dimensions."""
    student = config.student
    layers, dim = student.layers, student.dim
    if student.model is None:
        layers, dim = layers or 2, dim if dim is not None or student.dims else 128
    return StudentPlan(student.model, layers, dim or None, student.pooling)


def _mining(explicit: dict[str, Any]) -> MiningSettings:
    given = {"margin": explicit["negative_margin"]} if "negative_margin" in explicit else {}
    first, last = explicit.get("negative_ranks", (MiningSettings.first, MiningSettings.last))
    return MiningSettings(first, last, **given)


def _check_given(given: Collection[str], stage: str) -> None:
    """Refuse parameters of a stage that does not run."""
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
    """Refuse fine-tuning parameters that have no effect with the other parameters."""
    idle = {"soft_weight": "without `soft_labels`"} if finetuning.soft_labels is None else {}
    if not finetuning.negatives:
        idle |= dict.fromkeys(("negative_ranks", "negative_margin"), "with `negatives=0`")
    for name, how in idle.items():
        if name in given:
            raise UserError(f"`{name}` changes nothing {how}: leave it out.")


def unread(given: Collection[str], stage: str, objective: str) -> tuple[str, ...]:
    """The parameters among `given` that the objective does not read.

    They are not an error, because a comparison of objectives gives the same parameters to all.
    """
    if stage == "finetune":
        return ()
    names = ["bank_size", "temperature"] if objective in TEXT_BY_TEXT else []
    names += ["projection"] if objective in WITHOUT_PROJECTION else []
    names += ["regression_weight"] if objective in (*TEXT_BY_TEXT, *WITHOUT_PROJECTION) else []
    if objective != "ibkd":
        names += ["hsic_weight"] if stage == "both" else ["hsic_weight", "hsic_bandwidth", "hsic_estimator"]
    return tuple(name for name in names if name in given)


_USUAL_CORPUS = "pydocs:train"


def text_sources(config: DistillConfig) -> tuple[Any, Any, Any]:
    """Corpus, queries and dev queries. The built-in corpus brings its own queries unless others are given."""
    data = config.data
    corpus = _USUAL_CORPUS if data.corpus is None else data.corpus
    own = _USUAL_CORPUS if isinstance(corpus, str) and corpus.split(":")[0] == "pydocs" else None
    queries = own if data.queries is None else data.queries
    return corpus, queries, own if data.dev is None else data.dev


def decided(
    config: DistillConfig, plan: StudentPlan, settings: DistillSettings, tuning: FinetuneSettings | None
) -> Any:
    """The configuration that repeats a run even if defaults change. It spells out every setting of its stage."""
    corpus, queries, dev = text_sources(config)
    terms, mining = settings.objective_settings, tuning.mining if tuning else None
    found: dict[str, Any] = {"corpus": corpus, "queries": queries, "dev": dev}
    found["synthetic_queries"] = config.data.synthetic_queries or 0
    found |= {"student": plan.model, "layers": plan.layers, "dim": plan.dim or 0, "pooling": plan.pooling}
    found |= {
        name: getattr(settings, name)
        for name in (*_BOTH_STAGES, *_STAGE_1, "freeze_embeddings")
        if hasattr(settings, name)
    }
    found |= {each.name: getattr(terms, each.name) for each in fields(terms)}
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
