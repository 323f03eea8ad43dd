"""The report on a student: how it was made and how it compares with its teacher, for `ibkd.json` and the card."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval import __version__
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.recipe import DistillSettings, FinetuneSettings
from ibkd_retrieval.distill.teacher.joint import JointTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.loop import DevPoint
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.environment import Environment
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
        teacher_speed: texts per second that the teacher encodes.
        student_speed: texts per second that the student encodes. Both encode the same texts in turn.
    """

    student: Encoder
    teacher_dev: float
    shorter_dev: Mapping[int, float]
    teacher_speed: float
    student_speed: float


def final_figures(
    model: SentenceTransformer, name: str, teacher: Encoder | JointTeacher, dev: Dev, dims: Sequence[int], dtype: str
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
        both = {"teacher": teacher.encode, "student": student.encode}
        rates = measure_throughput(both, dev.texts[-_SPEED_SAMPLE:], rounds=3)
        speeds = [rates[who].documents_per_second for who in both]
        return np.array([dev.score(teacher), *speeds, *shorter])

    teacher_dev, teacher_speed, student_speed, *shorter_dev = ranks.from_first(measure).tolist()
    return FinalFigures(
        student, teacher_dev, dict(zip(dims[1:], shorter_dev, strict=True)), teacher_speed, student_speed
    )


@dataclass(frozen=True)
class EncoderFacts:
    """One encoder in the card's table.

    Attributes:
        name: as the user named it.
        weight_hash: hash of the measured weights.
        dev: the dev figure.
        dim: dimensions of a vector.
        embedding_parameters: number of parameters in token and position embeddings.
        transformer_parameters: number of all other parameters.
        texts_per_second: encoding speed on the dev texts, comparable within one card only.
        dtype: number format of the computation, after "auto" is resolved.
    """

    name: str
    weight_hash: str
    dev: float
    dim: int
    embedding_parameters: int
    transformer_parameters: int
    texts_per_second: float
    dtype: str

    @classmethod
    def of(cls, encoder: Encoder | JointTeacher, dev: float, texts_per_second: float) -> EncoderFacts:
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
        )


@dataclass(frozen=True)
class FinetuneFacts:
    """The record of stage 2.

    Attributes:
        pairs: name of the training pairs.
        queries: number of training queries.
        negatives_a_query: average number of hard negatives available per query.
        fingerprint: hash of the pairs with their negatives.
        settings: the recipe.
        history: the dev figure by step.
        seconds: training time.
    """

    pairs: str
    queries: int
    negatives_a_query: float
    fingerprint: str
    settings: FinetuneSettings
    history: tuple[DevPoint, ...]
    seconds: float


@dataclass(frozen=True)
class StudentReport:
    """How a student was made and what it is worth: the contents of `ibkd.json`."""

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
    settings: DistillSettings
    finetuning: FinetuneFacts | None
    train_seconds: float
    texts_per_second: float
    environment: Environment
    config: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values for `ibkd.json`."""
        packages = ("torch", "transformers", "sentence-transformers", "numpy")
        return {
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "packages": {name: importlib.metadata.version(name) for name in packages},
            **asdict(self),
        }
