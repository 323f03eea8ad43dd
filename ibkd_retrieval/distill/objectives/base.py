"""Inputs and outputs of a distillation loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ibkd_retrieval.distill.training.log import StepTimes


@dataclass(frozen=True)
class Sizes:
    """The sizes that an objective is built for.

    Attributes:
        student: number d of dimensions of a student vector.
        teacher: number D of dimensions of a teacher vector.
    """

    student: int
    teacher: int


@dataclass(frozen=True)
class Batch:
    """The vectors of one batch.

    Attributes:
        student: unit student vectors [n, d], with gradient.
        teacher: unit teacher vectors [n, D].
        inputs: mean-pooled output [n, e] of the student's embedding layer, without gradient. None for a static student,
            whose output would be the same.
        bank: additional unit teacher vectors [m, D], or None.
        duplicate: bool [n, n + m]: whether candidate j (batch, then bank) is the same text as row i, for j != i.
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
        total: the loss, a scalar with gradient.
        terms: scalars for the log by name, such as "keep" and "hsic".
        watch: terms with gradient, by name, whose gradient norm is logged.
    """

    total: Tensor
    terms: dict[str, Tensor]
    watch: dict[str, Tensor] = field(default_factory=dict)


def mean_terms(each: Sequence[LossTerms]) -> LossTerms:
    """The mean of losses at several lengths, with the terms of the first."""
    import torch

    total = torch.stack([terms.total for terms in each]).mean()
    watch = {name: torch.stack([terms.watch[name] for terms in each]).mean() for name in each[0].watch}
    return LossTerms(total, each[0].terms, watch)


class OwnMaps(Protocol):
    """An objective that has its own maps instead of W."""

    def start(self, student: NDArray[np.float32], teacher: NDArray[np.float32]) -> None:
        """Initialise the maps from vectors of the untrained student [n, d] and of the teacher [n, D]."""
