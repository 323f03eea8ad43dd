"""What a finished student is worth beside its teacher: the figures of the model card."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.teacher.joint import JointTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.encoders.encoder import Encoder
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
        shorter_dev: the student's with its vectors cut, by their length.
        teacher_speed: texts a second while encoding.
        student_speed: the same of the student, on the same texts and in turn.
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
        model: the student as it will be saved; left as it is.
        name: what to call it.
        teacher: at its own length, as it would be used.
        dev: what was watched.
        dims: lengths that the student may be cut to, the full one first.
        dtype: the arithmetic.
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
