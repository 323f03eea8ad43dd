"""What an objective is told, gets and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ibkd_retrieval.distill.step_times import StepTimes


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the objectives read.

    Attributes:
        temperature: tau of the contrast; smaller looks harder at the nearest negatives.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of its Gaussian kernels, or "median" to follow the batch.
        hsic_estimator: "biased", "unbiased", or "cka" for the normalised one.
    """

    temperature: float = 0.05
    hsic_weight: float = 0.2
    hsic_bandwidth: float | str = "median"
    hsic_estimator: str = "biased"


@dataclass(frozen=True)
class Sizes:
    """What an objective is built for.

    Attributes:
        student: length of a student vector, d.
        teacher: length of a teacher vector, D.
        texts: different texts in training, M.
    """

    student: int
    teacher: int
    texts: int


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
        times: told how long the forgetting term takes, None where nobody asks.
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
        watch: those terms, with gradient, whose pull on the student's vectors is worth logging.
    """

    total: Tensor
    terms: dict[str, Tensor]
    watch: dict[str, Tensor] = field(default_factory=dict)
