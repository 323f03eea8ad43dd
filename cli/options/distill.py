"""The options of `ibkd distill`, by group."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibkd_retrieval.distill.objectives.table import TEMPERATURES, TEXT_BY_TEXT, USUAL_TEMPERATURE, WITHOUT_PROJECTION
from ibkd_retrieval.errors import UserError, option_named

from .common import CORPUS_HELP

if TYPE_CHECKING:
    from ibkd_retrieval.distill.config import FinetuneSettings

# What both stages need, text and lengths and dimensions, is in neither list.
OF_STAGE_1 = (
    "objective",
    "projection",
    "steps",
    "batch_size",
    "bank_size",
    "learning_rate",
    "merge",
    "temperature",
    "hsic_weight",
)
OF_STAGE_2 = (
    "pairs",
    "finetune_steps",
    "finetune_batch_size",
    "finetune_learning_rate",
    "finetune_temperature",
    "finetune_hsic_weight",
    "negatives",
    "negative_ranks",
    "negative_margin",
    "soft_labels",
    "soft_weight",
)
_STUDENT, _TEXT, _DISTIL, _FINETUNE, _RUN = "Student", "Text", "Distilling (stage 1)", "Fine-tuning (stage 2)", "Run"


def check_given(given: Collection[str], stage: str) -> None:
    """Refuse options of a stage that is left out.

    Args:
        given: names of the options that were given.
        stage: as the option says.

    Raises:
        UserError: names them.
    """
    unused, purpose, instead = {
        "distill": (OF_STAGE_2, "fine-tuning", "--stage finetune or --stage both"),
        "finetune": (OF_STAGE_1, "distilling", "--stage both"),
    }.get(stage, ((), "", ""))
    wrong = [name for name in unused if name in given]
    if not wrong:
        return
    twins = [option_named(f"finetune_{name}") for name in wrong if f"finetune_{name}" in OF_STAGE_2]
    raise UserError(
        f"{', '.join(map(option_named, wrong))} {'are' if len(wrong) > 1 else 'is'} for {purpose}: give {instead} too"
        f"{', or ' + ', '.join(twins) if twins else ''}."
    )


def check_effect(given: Collection[str], finetuning: FinetuneSettings) -> None:
    """Refuse options of fine-tuning that change nothing beside the others.

    Args:
        given: names of the options that were given.
        finetuning: what they made of stage 2.

    Raises:
        UserError: names the first.
    """
    idle = {"soft_weight": "without --soft-labels"} if finetuning.soft_labels is None else {}
    if not finetuning.negatives:
        idle |= dict.fromkeys(("negative_ranks", "negative_margin"), "with --negatives 0")
    for name, how in idle.items():
        if name in given:
            raise UserError(f"{option_named(name)} changes nothing {how}: leave it out.")


def without_effect(given: Collection[str], stage: str, objective: str) -> str | None:
    """A sentence on options that were given and that the objective does not read; None where there are none.

    They are no mistake: a comparison of objectives gives all of them the same.
    """
    if stage == "finetune":
        return None
    unread = ["bank_size", "temperature"] if objective in TEXT_BY_TEXT else []
    unread += ["projection"] if objective in WITHOUT_PROJECTION else []
    if objective != "ibkd":
        unread += ["hsic_weight"] if stage == "both" else ["hsic_weight", "hsic_bandwidth", "hsic_estimator"]
    found = [option_named(name) for name in unread if name in given]
    return f"the objective {objective} does not read {', '.join(found)}" if found else None


def _option(panel: str, help: str, default: str | None = None, *names: str, metavar: str | None = None) -> Any:
    shown: dict[str, Any] = {} if default is None else {"show_default": default}
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **shown)


Teacher = Annotated[
    list[str],
    _option(
        _STUDENT,
        "Encoder to learn from: folder or hub name. Repeatable: their vectors side by side, the first's layers.",
        metavar="MODEL",
    ),
]
Student = Annotated[
    str | None,
    _option(
        _STUDENT,
        "A small model to train, or static: one vector a token out of the teacher.",
        "layers of the teacher",
        metavar="MODEL",
    ),
]
Layers = Annotated[
    str | None,
    _option(
        _STUDENT,
        "How many layers of the teacher (or of --student), evenly spaced, or positions: 0,3,5.",
        "2 without --student",
    ),
]
Dim = Annotated[
    int | None, _option(_STUDENT, "Dimensions of the student's vectors.", "128 without --student, else its own")
]
Dims = Annotated[
    str | None,
    _option(
        _STUDENT, "Lengths at which vectors are to be usable when cut, the full one first: 128,64,32.", "the full one"
    ),
]
Pooling = Annotated[str | None, _option(_STUDENT, "mean or cls, for a plain transformers student.", "mean")]
OutputSpace = Annotated[
    str, _option(_STUDENT, "student: compact vectors; teacher: vectors that search the teacher's index.")
]
FreezeEmbeddings = Annotated[
    bool | None,
    _option(
        _STUDENT,
        "Leave the student's token tables as they are.",
        "freeze, with --student train",
        "--freeze-embeddings/--train-embeddings",
    ),
]

CorpusOption = Annotated[
    str, _option(_TEXT, f"Documents to learn from, as unlabelled text: {CORPUS_HELP}", metavar="CORPUS")
]
QueriesOption = Annotated[
    str | None,
    _option(_TEXT, "Queries to learn from, as unlabelled text.", "pydocs:train with pydocs", metavar="QUERIES"),
]
Dev = Annotated[
    str | None,
    _option(
        _TEXT,
        "Judged queries to watch (BEIR folder:split, ir_datasets id).",
        "pydocs:train with pydocs, else neighbours of the teacher among held-out texts",
        metavar="QUERIES",
    ),
]
MaxLength = Annotated[int, _option(_TEXT, "Tokens read of a training text.")]
MaxDocuments = Annotated[int | None, _option(_TEXT, "Most documents to learn from, drawn at random.", "all")]

Stage = Annotated[str, _option(_RUN, "distill, finetune or both.")]
Preset = Annotated[
    str | None,
    _option(
        _RUN,
        "thorough: 3,000 steps, with no care for what a small model knew, for much text and a GPU; paper: the "
        "published settings of the method. Both give way to other options.",
        "none",
    ),
]
EvalEvery = Annotated[int, _option(_RUN, "Steps between looks at the dev set.")]
Patience = Annotated[
    int, _option(_RUN, "End after so many looks without a better figure, with the best weights; 0: never.")
]
CheckpointEvery = Annotated[int, _option(_RUN, "Steps between checkpoints.")]
TensorBoard = Annotated[bool, _option(_RUN, "Also log to <output>/tensorboard.", None, "--tensorboard")]
Output = Annotated[Path | None, _option(_RUN, "Model folder to make.", "models/<name>")]
Cache = Annotated[Path | None, _option(_RUN, "Where teacher vectors are kept.", "~/.cache/ibkd/teachers")]

Objective = Annotated[
    str | None,
    _option(_DISTIL, "ibkd, infonce, mse, cosine, crd, hpd or kl.", "ibkd; kl for a --student in a space of its own"),
]
ProjectionOption = Annotated[
    str,
    _option(
        _DISTIL,
        "Map to the teacher's space: trained, or isometry: held where it changes no cosine of the student.",
        "isometry for a --student trained before, else trained",
    ),
]
Steps = Annotated[int, _option(_DISTIL, "Optimiser steps.")]
BatchSize = Annotated[int, _option(_DISTIL, "Texts in a batch.")]
Accumulate = Annotated[
    int,
    _option(
        _DISTIL,
        "Batches a step, their losses averaged; negatives stay those of one batch and the bank; for both stages.",
    ),
]
BankSize = Annotated[int, _option(_DISTIL, "Further teacher vectors a batch, as negatives.")]
LearningRate = Annotated[
    float | None,
    _option(
        _DISTIL,
        "Peak learning rate.",
        "0.002; with --student 0.00005, in the teacher's space 0.0003, with --pooling 0.001, static 0.01",
    ),
]
Merge = Annotated[
    float | None,
    _option(
        _DISTIL,
        "Share of the weights from before training in the finished student, the mean of both.",
        "0.5 for a whole --student in a space of its own, 0 with --pooling, --layers and else",
    ),
]
Temperature = Annotated[
    float | None,
    _option(
        _DISTIL,
        "Of the contrast; smaller looks harder at near negatives.",
        f"{USUAL_TEMPERATURE}; " + ", ".join(f"{name} {value}" for name, value in TEMPERATURES.items()),
    ),
]
HsicWeight = Annotated[float, _option(_DISTIL, "Weight of the forgetting term (lambda).")]
HsicBandwidth = Annotated[str, _option(_DISTIL, "median, or gamma as a number; for both stages.")]
HsicEstimator = Annotated[
    str, _option(_DISTIL, "biased (as published), unbiased, or cka (normalised); for both stages.")
]

Pairs = Annotated[
    str | None,
    _option(
        _FINETUNE,
        "Queries with their passages: judged queries (BEIR folder:train, ir_datasets id), or a JSONL file of "
        '{"query", "passage", "negatives"}.',
        "none",
        metavar="QUERIES",
    ),
]
FinetuneSteps = Annotated[int, _option(_FINETUNE, "Optimiser steps.")]
FinetuneBatchSize = Annotated[int, _option(_FINETUNE, "Queries a step, each with one passage.")]
FinetuneLearningRate = Annotated[float, _option(_FINETUNE, "Peak learning rate.")]
FinetuneTemperature = Annotated[float, _option(_FINETUNE, "Of the contrast.")]
FinetuneHsicWeight = Annotated[float, _option(_FINETUNE, "Weight of the forgetting term (lambda).")]
Negatives = Annotated[int, _option(_FINETUNE, "Hard negatives a query and step; 0 mines none.")]
NegativeRanks = Annotated[str, _option(_FINETUNE, "The teacher's ranks that negatives come from.")]
NegativeMargin = Annotated[
    float, _option(_FINETUNE, "Leave out what scores above the best positive less this much: likely an answer.")
]
SoftLabels = Annotated[
    str | None,
    _option(_FINETUNE, "teacher, or a cross-encoder: its scores of the candidates as further targets.", "none"),
]
SoftWeight = Annotated[float, _option(_FINETUNE, "Weight of the divergence from the soft labels.")]
