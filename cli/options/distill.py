"""The options of `ibkd distill`, declared once: each is a parameter of `ibkd_retrieval.distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from ibkd_retrieval.distill.config import PARAMETERS, USUAL, DistillConfig
from ibkd_retrieval.distill.objectives import OBJECTIVES, TEMPERATURES, USUAL_TEMPERATURE
from ibkd_retrieval.encoders.loading import DEVICE_MAPS, POOLINGS

from .common import (
    COMPUTATION,
    COMPUTING,
    CORPUS_HELP,
    FILES,
    SPENDING,
    CorpusFields,
    Output,
    Unfinished,
    on_cluster,
    seed_option,
)
from .declare import ADVANCED, Given, Group, flag, group, option, parameter

_CLUSTER = on_cluster(COMPUTING)
_TEACHER = f"{ADVANCED}: the teacher"
_STUDENT = f"{ADVANCED}: the student"
_TEXT = f"{ADVANCED}: text"
_DISTIL = f"{ADVANCED}: distilling (stage 1)"
_FINETUNE = f"{ADVANCED}: fine-tuning (stage 2)"
_RUN = f"{ADVANCED}: the run"

_FIELDS, _UNFINISHED, _OUTPUT = (
    {p.name: p.annotation for p in group(each).parameters} for each in (CorpusFields, Unfinished, Output)
)

OPTIONS: dict[str, Any] = {
    "corpus": Annotated[str, option(CORPUS_HELP, metavar="CORPUS")],
    "queries": Annotated[
        str | None,
        option("Queries to learn from, as unlabelled text.", default="pydocs:train with pydocs", metavar="QUERIES"),
    ],
    "teacher": Annotated[
        list[str],
        option(
            "Encoder to learn from: folder or hub name, an index, or http://HOST/v1#MODEL for an endpoint. Repeatable: "
            "vectors are concatenated, layers are the first's.",
            metavar="MODEL",
        ),
    ],
    "teacher_vectors": Annotated[
        str | None,
        option(
            "The teacher's vectors in place of a model, for a --student MODEL: parquet with texts, .npy in the order "
            "of --corpus, or an index.",
            default="none",
            metavar="PATH",
        ),
    ],
    "teacher_pooling": Annotated[
        str | None,
        option(
            "How the teacher pools its tokens, in place of what its folder says.",
            panel=_TEACHER,
            default="the folder's; without one lasttoken for a causal language model, else mean",
            choices=POOLINGS,
        ),
    ],
    "teacher_query_prompt": Annotated[
        str | None,
        option("Text that the teacher reads before a query.", panel=_TEACHER, default="its own", metavar="TEXT"),
    ],
    "teacher_document_prompt": Annotated[
        str | None,
        option("Text that the teacher reads before a document.", panel=_TEACHER, default="its own", metavar="TEXT"),
    ],
    "teacher_device_map": Annotated[
        str | None,
        option(
            "Spread the teacher's layers over the GPUs, with accelerate.",
            panel=_TEACHER,
            default="one device",
            choices=DEVICE_MAPS,
        ),
    ],
    "query_prompt": Annotated[
        str | None,
        option(
            "Text that the student reads before a query. It is saved in the student's folder.",
            panel=_STUDENT,
            default="its own, or the teacher's with layers of it",
            metavar="TEXT",
        ),
    ],
    "document_prompt": Annotated[
        str | None,
        option(
            "Text that the student reads before a document, likewise.",
            panel=_STUDENT,
            default="its own, or the teacher's with layers of it",
            metavar="TEXT",
        ),
    ],
    "student": Annotated[
        str | None,
        option(
            "A small model to train, or static: one vector for each token, taken from the teacher.",
            default="layers of the teacher",
            metavar="MODEL|static",
        ),
    ],
    "layers": Annotated[
        str | None,
        option(
            "How many layers of the teacher (or of --student), evenly spaced, or positions: 0,3,5.",
            default="2 without --student",
            metavar="COUNT|LIST",
        ),
    ],
    "dim": Annotated[
        int | None,
        option("Dimensions of the student's vectors.", default="128 without --student, else its own"),
    ],
    "steps": Annotated[int, option("Optimiser steps of stage 1.")],
    "minutes": Annotated[
        float | None,
        option(
            "Train stage 1 for about this long: chooses the steps by the measured time of a step.",
            default="as long as --steps take",
        ),
    ],
    "stage": Annotated[str, option("What to run: stage 1, stage 2 or both.", choices=("distill", "finetune", "both"))],
    "pairs": Annotated[
        str | None,
        option(
            "For stage 2: queries with their passages. Judged queries (BEIR folder:train, a data set by name), or a "
            'JSONL file of {"query", "passage", "negatives"}.',
            default="none",
            metavar="QUERIES",
        ),
    ],
    "preset": Annotated[
        str | None,
        option(
            "thorough: 3,000 steps, for much text and a GPU; a small model keeps less of what it knew. paper: the "
            "published settings of the method. Other options override both.",
            default="none",
            choices=("thorough", "paper"),
        ),
    ],
    "output": Annotated[Path | None, option("Model folder to make.", default="models/<name>", metavar="FOLDER")],
    **_UNFINISHED,
    **_OUTPUT,
    "dims": Annotated[
        str | None,
        option(
            "Matryoshka dims: lengths at which cut vectors still work, the full one first: 128,64,32.",
            panel=_STUDENT,
            default="the full one",
            metavar="LIST",
        ),
    ],
    "pooling": Annotated[
        str | None,
        option(
            "How the model of --student pools its tokens, in place of what its folder says.",
            panel=_STUDENT,
            default="the folder's, else mean",
            choices=POOLINGS,
        ),
    ],
    "freeze_embeddings": Annotated[
        bool | None,
        option(
            "Do not train the student's token tables.",
            "--freeze-embeddings/--train-embeddings",
            panel=_STUDENT,
            default="freeze, with --student train",
            metavar=" ",
        ),
    ],
    "vocabulary": Annotated[
        str,
        option(
            "The student's token table: whole, or corpus for the tokens of the training texts alone.",
            panel=_STUDENT,
            choices=("whole", "corpus"),
        ),
    ],
    "output_space": Annotated[
        str,
        option(
            "student: compact vectors; teacher: vectors that search the teacher's index.",
            panel=_STUDENT,
            choices=("student", "teacher"),
        ),
    ],
    "query_vectors": Annotated[
        str | None,
        option(
            "The teacher's vectors of queries, beside --teacher-vectors: parquet, or .npy in the order of --queries.",
            panel=_TEXT,
            default="none",
            metavar="PATH",
        ),
    ],
    "dev": Annotated[
        str | None,
        option(
            "Dev set: judged queries to evaluate on (BEIR folder:split, a data set by name).",
            panel=_TEXT,
            default="pydocs:train with pydocs, else neighbours of the teacher among held-out texts",
            metavar="QUERIES",
        ),
    ],
    "max_length": Annotated[int, option("Tokens read of a training text.", panel=_TEXT)],
    "max_documents": Annotated[
        int | None, option("Most documents to learn from, drawn at random.", panel=_TEXT, default="all")
    ],
    "synthetic_queries": Annotated[
        int,
        option("Queries made of each document, as further text: titles, sentences, spans and keywords.", panel=_TEXT),
    ],
    **_FIELDS,
    "vector_field": Annotated[
        str | None,
        option(
            "Column of the vectors in --teacher-vectors and --query-vectors.",
            panel=FILES,
            default="the only one, or vector, embedding",
            metavar="NAME",
        ),
    ],
    "objective": Annotated[
        str | None,
        option(
            "The distillation loss.",
            metavar="NAME",
            panel=_DISTIL,
            default="ibkd; kl for a --student in a space of its own",
            choices=OBJECTIVES,
        ),
    ],
    "projection": Annotated[
        str,
        option(
            "Linear map to the teacher's space: trained, or kept an isometry, which changes no cosine.",
            panel=_DISTIL,
            default="isometry for a --student trained before, else trained",
            choices=("auto", "trained", "isometry"),
        ),
    ],
    "projection_learning_rate": Annotated[float, option("Peak learning rate of that map.", panel=_DISTIL)],
    "batch_size": Annotated[int, option("Texts in a batch.", panel=_DISTIL)],
    "accumulate": Annotated[
        int,
        option(
            "Batches for each step, their losses averaged. Negatives come from one batch and the bank. Both stages.",
            panel=_DISTIL,
        ),
    ],
    "bank_size": Annotated[int, option("Further teacher vectors for each batch, as negatives.", panel=_DISTIL)],
    "learning_rate": Annotated[
        float | None,
        option(
            "Peak learning rate.",
            panel=_DISTIL,
            default="0.002 for a teacher of 384 dimensions, 0.001 for 768; "
            "with --student 0.00005, in the teacher's space 0.0003, with --pooling 0.001, static 0.01",
        ),
    ],
    "merge": Annotated[
        float | None,
        option(
            "Share of the weights from before training in the finished student.",
            panel=_DISTIL,
            default="0.5 for a whole --student in a space of its own, otherwise 0",
            metavar="SHARE",
        ),
    ],
    "temperature": Annotated[
        float | None,
        option(
            "Temperature of the contrastive loss; a smaller one gives near negatives more weight.",
            panel=_DISTIL,
            default=f"{USUAL_TEMPERATURE}; " + ", ".join(f"{name} {value}" for name, value in TEMPERATURES.items()),
        ),
    ],
    "regression_weight": Annotated[
        float | None,
        option(
            "Weight of the regression (1 - mean cosine to the teacher) beside the contrast of ibkd and infonce, or kl.",
            panel=_DISTIL,
            default="5 for ibkd with layers of the teacher or static, otherwise 0",
        ),
    ],
    "hsic_weight": Annotated[float, option("Weight of the forgetting term (lambda).", panel=_DISTIL)],
    "hsic_bandwidth": Annotated[
        str, option("median, or gamma as a number; for both stages.", panel=_DISTIL, metavar="median|NUMBER")
    ],
    "hsic_estimator": Annotated[
        str,
        option(
            "As published (biased), unbiased, or normalised (cka); for both stages.",
            panel=_DISTIL,
            choices=("biased", "unbiased", "cka"),
        ),
    ],
    "finetune_steps": Annotated[int, option("Optimiser steps.", panel=_FINETUNE)],
    "finetune_batch_size": Annotated[int, option("Queries in each step, each with one passage.", panel=_FINETUNE)],
    "finetune_learning_rate": Annotated[float, option("Peak learning rate.", panel=_FINETUNE)],
    "finetune_temperature": Annotated[float, option("Temperature of the contrast.", panel=_FINETUNE)],
    "finetune_hsic_weight": Annotated[float, option("Weight of the forgetting term (lambda).", panel=_FINETUNE)],
    "negatives": Annotated[int, option("Hard negatives for each query in a step; 0 mines none.", panel=_FINETUNE)],
    "negative_ranks": Annotated[
        str, option("The teacher's ranks that negatives come from.", panel=_FINETUNE, metavar="FIRST-LAST")
    ],
    "negative_margin": Annotated[
        float,
        option(
            "Leave out passages that score above the best positive minus this margin: likely answers.", panel=_FINETUNE
        ),
    ],
    "soft_labels": Annotated[
        str | None,
        option(
            "teacher, or a cross-encoder: its scores of the candidates as further targets.",
            panel=_FINETUNE,
            default="none",
            metavar="teacher|MODEL",
        ),
    ],
    "soft_weight": Annotated[float, option("Weight of the divergence from the soft labels.", panel=_FINETUNE)],
    "warmup": Annotated[
        float, option("Share of the steps in which the learning rate rises.", panel=_RUN, metavar="SHARE")
    ],
    "weight_decay": Annotated[float, option("Weight decay of AdamW, for matrices alone.", panel=_RUN)],
    "eval_every": Annotated[int, option("Steps between evaluations on the dev set.", panel=_RUN)],
    "patience": Annotated[
        int,
        option(
            "Stop after this many evaluations without a better figure, and keep the best weights; 0: never.", panel=_RUN
        ),
    ],
    "checkpoint_every": Annotated[int, option("Steps between checkpoints.", panel=_RUN)],
    "tensorboard": Annotated[bool, flag("Also log to <output>/tensorboard.", "--tensorboard", panel=_RUN)],
    "cache": Annotated[
        Path | None,
        option("Where teacher vectors are kept.", panel=_RUN, default="~/.cache/ibkd/teachers", metavar="FOLDER"),
    ],
    "config": Annotated[
        Path | None,
        option(
            "Repeat the run of a finished student (its ibkd.json) or of a saved configuration.",
            panel=_RUN,
            default="none",
            metavar="FILE",
        ),
    ],
    "device": Annotated[str, COMPUTATION["device"]],
    "cluster": Annotated[str | None, _CLUSTER["cluster"]],
    "workers": Annotated[
        int | None,
        option("Most processes at once on the cluster.", panel=COMPUTING, default="as many as it has room for"),
    ],
    "worker_cpus": Annotated[int | None, _CLUSTER["worker_cpus"]],
    "dtype": Annotated[
        str,
        option(
            "Number format of training; auto is what the hardware multiplies fastest.",
            panel=COMPUTING,
            choices=("auto", "float32", "bfloat16"),
        ),
    ],
    "memory": Annotated[
        str | None,
        option(
            "Most memory that training takes, such as 2GB: batches are encoded in chunks, with the same gradients.",
            panel=COMPUTING,
            default="2GB on a CPU, more if the models need it; no limit on a GPU",
            metavar="SIZE",
        ),
    ],
    "seed": Annotated[int, seed_option(_RUN)],
    "price": Annotated[float | None, SPENDING["price"]],
    "yes": Annotated[bool, SPENDING["yes"]],
    "requests_per_minute": Annotated[float | None, SPENDING["requests_per_minute"]],
    "tokens_per_minute": Annotated[float | None, SPENDING["tokens_per_minute"]],
}


def _defaults() -> dict[str, Any]:
    """What is shown as the default of each option; the library decides what holds."""
    found: dict[str, Any] = dict.fromkeys(OPTIONS) | {"tensorboard": False, "device": "auto", "corpus": "pydocs:train"}
    found |= dict.fromkeys(("resume", "overwrite", "json", "quiet", "yes"), False)
    config, (first, last) = DistillConfig(), USUAL["negative_ranks"]
    found |= {name: config.value(name) for name in ("output_space", "vocabulary", "dtype", "seed", "stage")}
    found |= USUAL | {"negative_ranks": f"{first}-{last}", "teacher": list(config.teacher)}
    return found


DISTILLING = Group(
    tuple(parameter(name, OPTIONS[name], usual) for name, usual in _defaults().items()),
    lambda values: {name: values[name] for name in OPTIONS},
)
"""The options, which the command gets by the names of their parameters."""


def chosen(given: Given, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given and are choices of a configuration, by the name of the parameter."""
    return {name: options[name] for name in PARAMETERS if name in given}
