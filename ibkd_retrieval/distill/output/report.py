"""The report on a student, for `ibkd.json`, and the README of its folder."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval import __version__
from ibkd_retrieval.distill.config import RECORD
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.teacher.joint import JointTeacher
from ibkd_retrieval.distill.teacher.vectors import VectorTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.loop import DevPoint
from ibkd_retrieval.encoders.device import Environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.endpoints.encoder import EndpointEncoder
from ibkd_retrieval.encoders.students import keep_leading_dimensions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


_SPEED_SAMPLE = 128


@dataclass(frozen=True)
class FinalFigures:
    """Dev figures and speeds, measured by the first process.

    Attributes:
        student: the student as an encoder.
        teacher_dev: the teacher's dev figure.
        shorter_dev: the student's dev figure with truncated vectors, by length.
        teacher_speed: texts per second that the teacher encodes. 0 if there are only its vectors.
        student_speed: texts per second that the student encodes. Both encode the same texts in turn.
    """

    student: Encoder
    teacher_dev: float
    shorter_dev: Mapping[int, float]
    teacher_speed: float
    student_speed: float


def final_figures(
    model: SentenceTransformer,
    name: str,
    teacher: Encoder | JointTeacher | VectorTeacher,
    dev: Dev,
    dims: Sequence[int],
    dtype: str,
) -> FinalFigures:
    """Measure a finished student and its teacher.

    Args:
        model: the student as it will be saved. It is not changed.
        name: name of the student.
        teacher: the teacher with its own maximum length.
        dev: the dev set.
        dims: Matryoshka dims, largest first.
        dtype: number format of the computation.
    """
    from ibkd_retrieval.evaluation.compare.timing import measure_throughput

    student = Encoder(copy.deepcopy(model), name, dtype=dtype)

    def measure() -> NDArray[np.float64]:
        shorter = []
        for dim in dims[1:]:
            cut = copy.deepcopy(model)
            keep_leading_dimensions(cut, dim)
            shorter.append(dev.score(Encoder(cut, name, dtype=dtype)))
        timed: dict[str, Callable[[Sequence[str]], object]] = {"student": student.encode}
        # Vectors alone encode nothing, and an endpoint would have to be paid again.
        if not isinstance(teacher, VectorTeacher | EndpointEncoder):
            timed = {"teacher": teacher.encode} | timed
        rates = measure_throughput(timed, dev.texts[-_SPEED_SAMPLE:], rounds=3)
        speeds = {who: rate.documents_per_second for who, rate in rates.items()}
        if isinstance(teacher, EndpointEncoder):
            speeds["teacher"] = teacher.texts_per_second
        return np.array([dev.score(teacher), speeds.get("teacher", 0.0), speeds["student"], *shorter])

    teacher_dev, teacher_speed, student_speed, *shorter_dev = ranks.from_first(measure).tolist()
    return FinalFigures(
        student, teacher_dev, dict(zip(dims[1:], shorter_dev, strict=True)), teacher_speed, student_speed
    )


@dataclass(frozen=True)
class EncoderFacts:
    """One encoder in the card's table.

    Attributes:
        name: name that the user gave.
        weight_hash: hash of the measured weights.
        dev: the dev figure.
        dim: dimensions of a vector.
        embedding_parameters: number of parameters in token and position embeddings.
        transformer_parameters: number of all other parameters.
        texts_per_second: encoding speed on the dev texts, comparable within one card only. 0 for a teacher of which
            there are only vectors.
        dtype: number format of the computation, after "auto" is resolved.
        layers: number of transformer layers, None where it is not known.
    """

    name: str
    weight_hash: str
    dev: float
    dim: int
    embedding_parameters: int
    transformer_parameters: int
    texts_per_second: float
    dtype: str
    layers: int | None = None

    @classmethod
    def of(cls, encoder: Encoder | JointTeacher | VectorTeacher, dev: float, texts_per_second: float) -> EncoderFacts:
        """Read the facts off an encoder."""
        counts = encoder.parameters
        return cls(
            encoder.name,
            encoder.weight_hash,
            dev,
            encoder.dim,
            counts["embedding"],
            counts["transformer"],
            texts_per_second,
            encoder.dtype,
            encoder.layers if isinstance(encoder, Encoder) else None,
        )


@dataclass(frozen=True)
class FinetuneFacts:
    """The record of stage 2.

    Attributes:
        pairs: name of the training pairs.
        queries: number of training queries.
        negatives_a_query: average number of hard negatives available per query.
        fingerprint: hash of the pairs with their negatives.
        settings: the settings of stage 2 (`DistillConfig.finetuning_record`).
        history: the dev figure by step.
        seconds: training time.
    """

    pairs: str
    queries: int
    negatives_a_query: float
    fingerprint: str
    settings: Mapping[str, Any]
    history: tuple[DevPoint, ...]
    seconds: float


@dataclass(frozen=True)
class StudentReport:
    """How a student was made, and its figures: the contents of `ibkd.json`."""

    teacher: EncoderFacts
    student: EncoderFacts
    undistilled_dev: float
    shorter_dev: Mapping[int, float]
    dev_metric: str
    dev_set: str
    stage: str
    history: tuple[DevPoint, ...]
    corpus: str
    queries: str | None
    texts: int
    fingerprint: str
    origin: str
    settings: Mapping[str, Any]
    finetuning: FinetuneFacts | None
    train_seconds: float
    texts_per_second: float
    environment: Environment
    config: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for `ibkd.json`."""
        packages = ("torch", "transformers", "sentence-transformers", "numpy")
        return {
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "packages": {name: importlib.metadata.version(name) for name in packages},
            **asdict(self),
        }


def _made(report: StudentReport) -> str:
    if report.stage == "finetune":
        return f"fine-tuned beside its teacher `{report.teacher.name}`"
    then = " and fine-tuned on pairs of query and passage" if report.finetuning else ""
    return f"distilled from `{report.teacher.name}` with the objective `{report.settings['objective']}`{then}"


def _training(report: StudentReport) -> str:
    settings, said = report.settings, []
    if report.stage != "finetune":
        queries = f" and `{report.queries}`" if report.queries else ""
        said.append(
            f"Trained on {report.texts:,} unlabelled texts of `{report.corpus}`{queries} (fingerprint "
            f"`{report.fingerprint[:16]}`) for {_steps(report.history, settings)} of "
            f"{settings['batch_size'] * settings['accumulate']} texts, {report.train_seconds:.0f} s, "
            f"seed {settings['seed']}."
        )
        if settings["merge"]:
            before = f"{settings['merge']:.0%} of those before"
            said.append(f"Its weights are merged: {before}, the rest of the trained ones.")
    if settings["dims"]:
        said.append(f"Its vectors may be cut to {', '.join(map(str, settings['dims'][1:]))} dimensions.")
    if (second := report.finetuning) is not None:
        tuning = second.settings
        said.append(
            f"Fine-tuned on {second.queries:,} queries of `{second.pairs}` with their passages and "
            f"{second.negatives_a_query:.3g} hard negatives each on average, of which a step draws up to "
            f"{tuning['negatives']} (fingerprint `{second.fingerprint[:16]}`) for "
            f"{_steps(second.history, tuning)} of {tuning['batch_size'] * tuning['accumulate']} "
            f"queries, {second.seconds:.0f} s."
        )
    return "\n".join(said)


def _steps(history: Sequence[DevPoint], settings: Mapping[str, Any]) -> str:
    """The number of steps that ran, and the step whose weights were kept."""
    evaluated = [point for point in history if point.step]
    # With patience, the weights of the best evaluation are kept, the first of equal ones. Otherwise the last are kept.
    kept = max(evaluated, key=lambda point: point.value).step if settings["patience"] else settings["steps"]
    ran = evaluated[-1].step if settings["patience"] else settings["steps"]
    return f"{ran:,} steps" + (f" (the weights after step {kept:,} were kept)" if kept != ran else "")


def _rows(report: StudentReport) -> list[tuple[str, str, str, str]]:
    """The table: teacher, student before distillation, student."""
    teacher, student = report.teacher, report.student

    def share(dev: float) -> str:
        return f" ({dev / teacher.dev:.1%})" if teacher.dev else ""

    # Before distillation only the quality was measured. The saved student may have another layer, or fewer dimensions.
    def counted(label: str, count: Callable[[EncoderFacts], float]) -> tuple[str, str, str, str]:
        return label, f"{count(teacher):,.0f}" if count(teacher) else "", "", f"{count(student):,.0f}"

    before = f"{report.undistilled_dev:.4f}{share(report.undistilled_dev)}"
    rows = [(f"{report.dev_metric} (dev)", f"{teacher.dev:.4f}", before, f"{student.dev:.4f}{share(student.dev)}")]
    rows += [(f"... cut to {dim} dimensions", "", "", f"{v:.4f}{share(v)}") for dim, v in report.shorter_dev.items()]
    times = student.texts_per_second / teacher.texts_per_second if teacher.texts_per_second else 0.0
    faster = f" ({times:.1f} × the teacher's)" if times else ""
    return [
        *rows,
        counted("dimensions", lambda each: each.dim),
        counted("parameters", lambda each: each.embedding_parameters + each.transformer_parameters),
        counted("... in token tables", lambda each: each.embedding_parameters),
        counted("... in layers", lambda each: each.transformer_parameters),
        (
            *counted("texts/s while encoding", lambda each: each.texts_per_second)[:3],
            f"{student.texts_per_second:,.0f}{faster}",
        ),
    ]


def model_card(report: StudentReport, folder: Path) -> str:
    """The README of a student's folder: what it is, how it compares with its teacher, and how it was made."""
    teacher, student = report.teacher, report.student
    kept = student.dev / teacher.dev if teacher.dev else float("nan")
    table = "\n".join(f"| {' | '.join(row)} |" for row in _rows(report))
    machine = report.environment
    where = machine.accelerator or f"{machine.cpu}, {machine.threads} threads"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, dense-retrieval, distillation]
---

# {folder.name}

A text encoder with {student.dim} dimensions, {_made(report)}.
It keeps {kept:.1%} of its teacher's {report.dev_metric} on the dev set that was watched while training; test figures
are for you to take on your own data (`ibkd compare`).

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer({json.dumps(str(folder.resolve()), ensure_ascii=False)}).encode(["a text"])
```

| | teacher | student before distillation | student |
|---|---|---|---|
{table}

Quality: {report.dev_metric} on the dev set, {report.dev_set}, by exact search. Speed: the same texts, each encoder in
turn, on {where}; compare the figures with each other only.

{_training(report)} Every setting and version is in `{RECORD}`.

Method: *Text Representation Distillation via Information Bottleneck Principle*, arXiv 2311.05472.
"""
