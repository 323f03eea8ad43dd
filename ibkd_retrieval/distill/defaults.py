"""The defaults of a `DistillConfig`, and the checks of what is given together.

A default depends on the preset, on the kind of student, or on nothing (`config.USUAL`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, PARAMETERS, USUAL, DistillConfig
from ibkd_retrieval.distill.objectives import TEMPERATURES, TEXT_BY_TEXT, USUAL_TEMPERATURE, WITHOUT_PROJECTION
from ibkd_retrieval.distill.parameters import STAGES, TEACHING, check_values
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.errors import UserError

_USUAL_CORPUS = "pydocs:train"
_NARROW = 384
"""Hidden size of the teachers on which the learning rate for layers was tuned."""
_STAGE_1 = (
    *("objective", "projection", "steps", "minutes", "batch_size", "bank_size", "learning_rate", "merge"),
    *("temperature", "regression_weight", "hsic_weight", "projection_learning_rate", "synthetic_queries"),
)
_STAGE_2 = (
    *(f"finetune_{name}" for name in FINETUNE_PREFIXED),
    *("negatives", "negative_ranks", "negative_margin", "soft_labels", "soft_weight"),
)
_PAPER: dict[str, Any] = {
    "objective": "ibkd",
    "batch_size": 256,
    "bank_size": 0,
    "learning_rate": 1e-4,
    "projection_learning_rate": 1e-4,
    "max_length": 128,
    "projection": "trained",
    "merge": 0.0,
    "temperature": 1.0,
    "regression_weight": 0.0,
    "hsic_weight": 0.2,
    "hsic_bandwidth": 1.0,
    "hsic_estimator": "biased",
    "finetune_batch_size": 128,
    "finetune_learning_rate": 1e-6,
    "finetune_temperature": 0.05,
    "finetune_hsic_weight": 1.0,
}
"""The published STS settings of both stages (arXiv 2311.05472). Stage 2 trains for 3 epochs there."""


def decided(config: DistillConfig) -> DistillConfig:
    """Choose every open value that does not need the models.

    Args:
        config: a configuration. What it gives is kept.

    Returns:
        The same run, spelt out. The learning rate may be open, and the projection "auto": see `with_models`.

    Raises:
        UserError: a value is outside its range, or values contradict each other.
    """
    given = config.given()
    _check_given(given, config.stage)
    if {"steps", "minutes"} <= given.keys():
        raise UserError("`minutes` chooses the steps that fit: leave out `minutes` or `steps`.")
    student = config.student
    by_kind: dict[str, Any] = {
        "freeze_embeddings": student.model is None,
        "dim": 128 if student.model is None and not student.dims else 0,
        "objective": "kl" if student.keeps_its_space else "ibkd",
        "merge": 0.5 if student.could_encode and student.keeps_its_space else 0.0,
    }
    if student.model is None:
        by_kind["layers"] = 2
    values = USUAL | by_kind | _preset(config.preset, student) | given
    objective = values["objective"]
    values.setdefault("temperature", TEMPERATURES.get(objective, USUAL_TEMPERATURE))
    values.setdefault("regression_weight", 0.0 if student.trained_before or objective != "ibkd" else 5.0)
    done = config.with_parameters(**values)
    check_values({name: done.value(name) for name in PARAMETERS})
    _ = done.finetuning.mining
    _check_effect(given, done)
    return done


def _preset(name: str | None, student: StudentConfig) -> dict[str, Any]:
    """The values of a preset, by parameter name.

    "thorough" is for large corpora: more steps, more negatives and longer texts. A pretrained student may move far from
    its start: it learns by `ibkd`, at a high rate, with W trained and without merging. This took
    paraphrase-MiniLM-L3-v2 from 77.5 % to 89.6 % of all-mpnet-base-v2. The usual defaults take it to 78.9 %
    (docs/reproduction.md).

    Raises:
        UserError: the preset is unknown.
    """
    if name is None:
        return {}
    if name == "paper":
        return _PAPER
    if name == "thorough":
        values: dict[str, Any] = {"steps": 3000, "bank_size": 16_384, "max_length": 256}
        if student.could_encode and student.keeps_its_space:
            values |= {"objective": "ibkd", "learning_rate": 5e-4, "projection": "trained", "merge": 0.0}
        return values
    raise UserError(f"Unknown preset `{name}`: use thorough or paper.")


def with_models(config: DistillConfig, dim: int, teacher_dim: int, width: int | None) -> DistillConfig:
    """Choose the values that need the models: the learning rate and the projection.

    Args:
        config: the decided configuration.
        dim: dimensions of the student's vectors.
        teacher_dim: dimensions of the teacher's vectors.
        width: hidden size of the teacher's transformer, or None.

    Raises:
        UserError: `projection` is "isometry" and the student has more dimensions than the teacher.
    """
    rate = config.training.learning_rate or usual_learning_rate(config.student, width)
    return config.with_parameters(learning_rate=rate, projection=projection_for(config, dim, teacher_dim))


def usual_learning_rate(student: StudentConfig, width: int | None = None) -> float:
    """The default peak learning rate for a kind of student. A pretrained encoder needs a low one, or it forgets.

    For layers of a teacher the rate falls with the teacher's hidden size: 2e-3 at 384, 1e-3 at 768.
    A static student starts as a least-squares fit: 1e-2 made that worse on both dev sets.
    """
    if not student.trained_before:
        return 2e-3 * min(1.0, _NARROW / (width or _NARROW)) if student.model is None else 1e-3
    if student.pooling is not None:  # A plain encoder, not yet trained for sentence vectors.
        return 1e-3
    return 5e-5 if student.keeps_its_space else 3e-4


def projection_for(config: DistillConfig, dim: int, teacher_dim: int) -> str:
    """Decide the projection where the configuration says "auto".

    Raises:
        UserError: `projection` is "isometry" and the student has more dimensions than the teacher.
    """
    projection = config.objective.projection
    if projection == "isometry" and dim > teacher_dim:
        raise UserError(
            f'`projection="isometry"` keeps all {dim} dimensions of the student, and the teacher has {teacher_dim}: '
            f'give `projection="trained"`, or `dim={teacher_dim}` or less.'
        )
    if projection != "auto":
        return projection
    # A least-squares map alone makes a pretrained student worse: all-MiniLM-L6-v2 falls from 0.660 to 0.609 nDCG@10 on
    # SciFact's training queries. Layers cut out of a teacher have little to lose.
    return "isometry" if config.student.keeps_its_space and dim <= teacher_dim else "trained"


def check_stage(config: DistillConfig, pairs: object | None) -> None:
    """Check that the stage has the inputs it needs.

    Raises:
        UserError: the stage is unknown, lacks pairs or does not use them, or cannot keep the student in the teacher's
            space.
    """
    stage, in_teacher_space = config.stage, config.student.output_space == "teacher"
    if stage not in STAGES:
        raise UserError(f"Unknown stage `{stage}`: use one of {', '.join(STAGES)}.")
    if len(config.teacher) > 1 and in_teacher_space:
        raise UserError(
            '`output_space="teacher"` is for one teacher, whose index the student can search; none holds the vectors '
            f"of {len(config.teacher)} side by side: leave `output_space` out."
        )
    if stage == "distill":
        if pairs is not None:
            raise UserError('`pairs` is for fine-tuning: give `stage="finetune"` or `stage="both"` too.')
        return
    if pairs is None:
        raise UserError(f'`stage="{stage}"` learns from pairs of query and passage: name them with `pairs`.')
    if in_teacher_space:
        raise UserError(
            f'`stage="{stage}"` moves the student away from the teacher\'s space: leave `output_space` out, or use '
            '`stage="distill"`.'
        )


def check_vectors(config: DistillConfig) -> None:
    """Check that the run needs no more of its teacher than its vectors, where there is nothing else.

    Raises:
        UserError: it needs the model itself, or several teachers are named.
    """
    source, student = config.vectors, config.student
    if source is None:
        if config.teacher and is_endpoint(config.teacher[0]) and not student.trained_before:
            raise UserError(
                "Layers of the teacher and static students are made of the teacher's model, and an endpoint gives its "
                "vectors alone: name a small model with `student`."
            )
        for name in ("query_vectors", "vector_field"):
            if config.value(name) is not None:
                raise UserError(f"`{name}` is for a teacher without a model: give `teacher_vectors` too.")
        return
    if config.data.teacher_vectors is not None and config.teacher:
        raise UserError("Give `teacher` (a model or an index) or `teacher_vectors` (its vectors alone), not both.")
    if len(config.teacher) > 1:
        raise UserError(f"{source} holds the vectors of a teacher, which is learnt from alone: leave out the others.")
    if not student.trained_before:
        raise UserError(
            f"Layers of the teacher and static students are made of the teacher's model, and {source} holds its "
            "vectors alone: name a small model with `student`."
        )
    if config.stage != "distill":
        raise UserError(
            f'`stage="{config.stage}"` mines negatives with the teacher\'s model, and {source} holds its vectors '
            'alone: use `stage="distill"`.'
        )
    if given := [name for name in TEACHING if config.value(name) is not None]:
        raise UserError(f"The vectors in {source} are made already: leave `{given[0]}` out.")
    if config.data.synthetic_queries:
        raise UserError(f"Synthetic queries have no vector in {source}: leave `synthetic_queries` out.")


def _of_another_stage(stage: str) -> tuple[str, ...]:
    """The parameters that a stage does not read."""
    return {"distill": ("pairs", *_STAGE_2), "finetune": _STAGE_1}.get(stage, ())


def _check_given(given: Collection[str], stage: str) -> None:
    """Refuse parameters of a stage that does not run."""
    wrong = [name for name in _of_another_stage(stage) if name in given]
    if not wrong:
        return
    both = '`stage="both"`'
    purpose, instead = ("fine-tuning", f'`stage="finetune"` or {both}') if stage == "distill" else ("distilling", both)
    twins = [f"`finetune_{name}`" for name in wrong if name in FINETUNE_PREFIXED] if stage == "finetune" else []
    raise UserError(
        f"{', '.join(f'`{name}`' for name in wrong)} {'are' if len(wrong) > 1 else 'is'} for {purpose}: give {instead} "
        f"too{', or ' + ', '.join(twins) if twins else ''}."
    )


def _without_effect(config: DistillConfig) -> dict[str, str]:
    """The fine-tuning parameters that have no effect with the other parameters, and why."""
    idle = {"soft_weight": "without `soft_labels`"} if config.finetuning.soft_labels is None else {}
    if not config.finetuning.negatives:
        idle |= dict.fromkeys(("negative_ranks", "negative_margin"), "with `negatives=0`")
    return idle


def _check_effect(given: Collection[str], config: DistillConfig) -> None:
    for name, how in _without_effect(config).items():
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


def text_sources(config: DistillConfig) -> tuple[Any, Any, Any]:
    """Corpus, queries and dev queries. The built-in corpus brings its own queries unless others are given.

    The vectors of a teacher may bring their own texts: None.
    """
    data = config.data
    if config.vectors is not None:
        return data.corpus, data.queries, data.dev
    corpus = _USUAL_CORPUS if data.corpus is None else data.corpus
    own = _USUAL_CORPUS if isinstance(corpus, str) and corpus.split(":")[0] == "pydocs" else None
    queries = own if data.queries is None else data.queries
    return corpus, queries, own if data.dev is None else data.dev


def recorded(config: DistillConfig, done: DistillConfig) -> DistillConfig:
    """The configuration that repeats a run even if defaults change: what was decided, without what nothing reads.

    Args:
        config: the configuration as given.
        done: the decided one.
    """
    corpus, queries, dev = text_sources(config)
    idle = set(unread(PARAMETERS, config.stage, done.objective.name)) - set(config.given())
    dropped = {*idle, *_of_another_stage(config.stage), *_without_effect(done)}
    return done.with_parameters(corpus=corpus, queries=queries, dev=dev, **dict.fromkeys(dropped))
