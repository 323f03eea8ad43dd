"""Inputs and outputs of a distillation loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ibkd_retrieval.distill.training.log import StepTimes


@dataclass(frozen=True)
class Sizes:
    """What an objective is built for.

    Attributes:
        student: dimensions d of a student vector.
        teacher: dimensions D of a teacher vector.
    """

    student: int
    teacher: int


@dataclass(frozen=True)
class Batch:
    """One step's vectors.

    Attributes:
        student: unit student vectors [n, d], with gradient.
        teacher: unit teacher vectors [n, D].
        inputs: the student's mean-pooled embedding-layer output [n, e], without gradient; None for a static student,
            whose output it would be.
        bank: further unit teacher vectors [m, D], or None.
        duplicate: bool [n, n + m]: candidate j (batch, then bank) holds the same text as row i, j != i.
        times: records the time of the forgetting term. None records nothing.
    """

    student: Tensor
    teacher: Tensor
    inputs: Tensor | None
    bank: Tensor | None
    duplicate: Tensor | None
    times: StepTimes | None = None


@dataclass(frozen=True)
class LossTerms:
    """A loss and its parts.

    Attributes:
        total: scalar with gradient.
        terms: named scalars for the log, such as "keep" and "forget".
        watch: the terms, with gradient, whose gradient norm is logged.
    """

    total: Tensor
    terms: dict[str, Tensor]
    watch: dict[str, Tensor] = field(default_factory=dict)


class OwnMaps(Protocol):
    """An objective that has maps of its own in place of W."""

    def start(self, student: NDArray[np.float32], teacher: NDArray[np.float32]) -> None:
        """Start them by vectors of the untrained student [n, d] and the teacher's of the same texts [n, D]."""
