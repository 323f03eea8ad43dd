"""The options of `ibkd distill`, declared once: each is a parameter of `ibkd_retrieval.distill`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, PARAMETERS, DistillConfig
from ibkd_retrieval.distill.objectives import TEMPERATURES, USUAL_TEMPERATURE
from ibkd_retrieval.distill.recipe import DistillSettings, FinetuneSettings, MiningSettings, ObjectiveSettings

from .common import CORPUS_HELP, Device, Dtype, IdField, Json, Overwrite, Quiet, Resume, Seed, TextField, TitleField

_STUDENT, _TEXT, _DISTIL, _FINETUNE, _RUN = "Student", "Text", "Distilling (stage 1)", "Fine-tuning (stage 2)", "Run"


def _option(panel: str, help: str, default: str | None = None, *names: str, metavar: str | None = None) -> Any:
    shown: dict[str, Any] = {} if default is None else {"show_default": default}
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **shown)


OPTIONS: dict[str, Any] = {
    "teacher": Annotated[
        list[str],
        _option(
            _STUDENT,
            "Encoder to learn from: folder or hub name. Repeatable: their vectors side by side, the first's layers.",
            metavar="MODEL",
        ),
    ],
    "student": Annotated[
        str | None,
        _option(
            _STUDENT,
            "A small model to train, or static: one vector a token out of the teacher.",
            "layers of the teacher",
            metavar="MODEL",
        ),
    ],
    "layers": Annotated[
        str | None,
        _option(
            _STUDENT,
            "How many layers of the teacher (or of --student), evenly spaced, or positions: 0,3,5.",
            "2 without --student",
        ),
    ],
    "dim": Annotated[
        int | None, _option(_STUDENT, "Dimensions of the student's vectors.", "128 without --student, else its own")
    ],
    "dims": Annotated[
        str | None,
        _option(
            _STUDENT,
            "Lengths at which vectors are to be usable when cut, the full one first: 128,64,32.",
            "the full one",
        ),
    ],
    "pooling": Annotated[str | None, _option(_STUDENT, "mean or cls, for a plain transformers student.", "mean")],
    "freeze_embeddings": Annotated[
        bool | None,
        _option(
            _STUDENT,
            "Leave the student's token tables as they are.",
            "freeze, with --student train",
            "--freeze-embeddings/--train-embeddings",
        ),
    ],
    "output_space": Annotated[
        str, _option(_STUDENT, "student: compact vectors; teacher: vectors that search the teacher's index.")
    ],
    "corpus": Annotated[
        str, _option(_TEXT, f"Documents to learn from, as unlabelled text: {CORPUS_HELP}", metavar="CORPUS")
    ],
    "id_field": IdField,
    "text_field": TextField,
    "title_field": TitleField,
    "queries": Annotated[
        str | None,
        _option(_TEXT, "Queries to learn from, as unlabelled text.", "pydocs:train with pydocs", metavar="QUERIES"),
    ],
    "dev": Annotated[
        str | None,
        _option(
            _TEXT,
            "Judged queries to watch (BEIR folder:split, ir_datasets id).",
            "pydocs:train with pydocs, else neighbours of the teacher among held-out texts",
            metavar="QUERIES",
        ),
    ],
    "max_length": Annotated[int, _option(_TEXT, "Tokens read of a training text.")],
    "max_documents": Annotated[int | None, _option(_TEXT, "Most documents to learn from, drawn at random.", "all")],
    "objective": Annotated[
        str | None,
        _option(
            _DISTIL, "ibkd, infonce, mse, cosine, crd, hpd or kl.", "ibkd; kl for a --student in a space of its own"
        ),
    ],
    "projection": Annotated[
        str,
        _option(
            _DISTIL,
            "Map to the teacher's space: trained, or isometry: held where it changes no cosine of the student.",
            "isometry for a --student trained before, else trained",
        ),
    ],
    "steps": Annotated[int, _option(_DISTIL, "Optimiser steps.")],
    "batch_size": Annotated[int, _option(_DISTIL, "Texts in a batch.")],
    "accumulate": Annotated[
        int,
        _option(
            _DISTIL,
            "Batches a step, their losses averaged; negatives stay those of one batch and the bank; for both stages.",
        ),
    ],
    "bank_size": Annotated[int, _option(_DISTIL, "Further teacher vectors a batch, as negatives.")],
    "learning_rate": Annotated[
        float | None,
        _option(
            _DISTIL,
            "Peak learning rate.",
            "0.002 for a teacher of 384 dimensions, 0.001 for 768; "
            "with --student 0.00005, in the teacher's space 0.0003, with --pooling 0.001, static 0.01",
        ),
    ],
    "merge": Annotated[
        float | None,
        _option(
            _DISTIL,
            "Share of the weights from before training in the finished student, the mean of both.",
            "0.5 for a whole --student in a space of its own, 0 with --pooling, --layers and else",
        ),
    ],
    "temperature": Annotated[
        float | None,
        _option(
            _DISTIL,
            "Of the contrast; smaller looks harder at near negatives.",
            f"{USUAL_TEMPERATURE}; " + ", ".join(f"{name} {value}" for name, value in TEMPERATURES.items()),
        ),
    ],
    "hsic_weight": Annotated[float, _option(_DISTIL, "Weight of the forgetting term (lambda).")],
    "hsic_bandwidth": Annotated[str, _option(_DISTIL, "median, or gamma as a number; for both stages.")],
    "hsic_estimator": Annotated[
        str, _option(_DISTIL, "biased (as published), unbiased, or cka (normalised); for both stages.")
    ],
    "pairs": Annotated[
        str | None,
        _option(
            _FINETUNE,
            "Queries with their passages: judged queries (BEIR folder:train, ir_datasets id), or a JSONL file of "
            '{"query", "passage", "negatives"}.',
            "none",
            metavar="QUERIES",
        ),
    ],
    "finetune_steps": Annotated[int, _option(_FINETUNE, "Optimiser steps.")],
    "finetune_batch_size": Annotated[int, _option(_FINETUNE, "Queries a step, each with one passage.")],
    "finetune_learning_rate": Annotated[float, _option(_FINETUNE, "Peak learning rate.")],
    "finetune_temperature": Annotated[float, _option(_FINETUNE, "Of the contrast.")],
    "finetune_hsic_weight": Annotated[float, _option(_FINETUNE, "Weight of the forgetting term (lambda).")],
    "negatives": Annotated[int, _option(_FINETUNE, "Hard negatives a query and step; 0 mines none.")],
    "negative_ranks": Annotated[str, _option(_FINETUNE, "The teacher's ranks that negatives come from.")],
    "negative_margin": Annotated[
        float, _option(_FINETUNE, "Leave out what scores above the best positive less this much: likely an answer.")
    ],
    "soft_labels": Annotated[
        str | None,
        _option(_FINETUNE, "teacher, or a cross-encoder: its scores of the candidates as further targets.", "none"),
    ],
    "soft_weight": Annotated[float, _option(_FINETUNE, "Weight of the divergence from the soft labels.")],
    "stage": Annotated[str, _option(_RUN, "distill, finetune or both.")],
    "preset": Annotated[
        str | None,
        _option(
            _RUN,
            "thorough: 3,000 steps, with no care for what a small model knew, for much text and a GPU; paper: the "
            "published settings of the method. Both give way to other options.",
            "none",
        ),
    ],
    "eval_every": Annotated[int, _option(_RUN, "Steps between evaluations on the dev set.")],
    "patience": Annotated[
        int, _option(_RUN, "End after so many evaluations without a better figure, with the best weights; 0: never.")
    ],
    "checkpoint_every": Annotated[int, _option(_RUN, "Steps between checkpoints.")],
    "tensorboard": Annotated[bool, _option(_RUN, "Also log to <output>/tensorboard.", None, "--tensorboard")],
    "output": Annotated[Path | None, _option(_RUN, "Model folder to make.", "models/<name>")],
    "cache": Annotated[Path | None, _option(_RUN, "Where teacher vectors are kept.", "~/.cache/ibkd/teachers")],
    "config": Annotated[
        Path | None,
        _option(_RUN, "Repeat the run of a finished student (its ibkd.json) or of a saved configuration.", "none"),
    ],
    "device": Device,
    "dtype": Dtype,
    "seed": Seed,
    "resume": Resume,
    "overwrite": Overwrite,
    "json": Json,
    "quiet": Quiet,
}


def _defaults() -> dict[str, Any]:
    """What is shown as the default of each option; the library decides what holds."""
    found: dict[str, Any] = dict.fromkeys(OPTIONS) | {"tensorboard": False, "device": "auto", "corpus": "pydocs:train"}
    found |= dict.fromkeys(("resume", "overwrite", "json", "quiet"), False)
    for settings in (DistillSettings, ObjectiveSettings):
        usual = {each.name: each.default for each in fields(settings) if each.default is not MISSING}
        found |= {name: value for name, value in usual.items() if name in found}
    for each in fields(FinetuneSettings):
        name = f"finetune_{each.name}" if each.name in FINETUNE_PREFIXED else each.name
        if name.startswith("finetune_") or name in ("negatives", "soft_weight"):
            found[name] = each.default
    found |= {
        "negative_ranks": f"{MiningSettings.first}-{MiningSettings.last}",
        "negative_margin": MiningSettings.margin,
    }
    found |= {"teacher": list(DistillConfig().teacher), "stage": DistillConfig.stage}
    found |= dict.fromkeys(("objective", "learning_rate", "merge", "temperature", "freeze_embeddings", "dims"))
    return found


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes a context and any options, the signature that typer makes the command line of."""
    usual = _defaults()
    keyword = inspect.Parameter.KEYWORD_ONLY
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    rest = [inspect.Parameter(n, keyword, default=usual[n], annotation=kind) for n, kind in OPTIONS.items()]
    command.__signature__ = inspect.Signature([first, *rest])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (first, *rest)}
    return command


def chosen(given: frozenset[str], options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given and are choices of a configuration, by the name of the parameter."""
    return {name: options[name] for name in PARAMETERS if name in given}
