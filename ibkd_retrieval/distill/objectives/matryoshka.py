"""Matryoshka training: any objective on several prefixes of the student's vector at once.

Kusupati et al. 2022, Matryoshka Representation Learning, arXiv 2205.13147.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, OwnMaps, mean_terms
from ibkd_retrieval.distill.objectives.projection import Projection


class Matryoshka(torch.nn.Module):
    """The mean of an objective over prefixes of the student's vector, each prefix made unit.

    A prefix is mapped by the first columns of W. W is fixed, and its columns are orthonormal: the teacher's principal
    directions, or an isometry. So prefixes of the saved vectors have the same cosines as in training.
    Any other W would stretch each length differently, and no single linear layer could undo that for all lengths.
    Fixing W loses nothing, because the student's own last layer is trained.
    """

    def __init__(self, objective: torch.nn.Module, dims: Sequence[int]) -> None:
        super().__init__()
        self.objective = objective
        self.dims = tuple(dims)
        if isinstance(self.projection, Projection):
            self.projection.weight.requires_grad_(False)

    @property
    def projection(self) -> torch.nn.Module | None:
        """W, where the objective has one."""
        found: torch.nn.Module | None = getattr(self.objective, "projection", None)
        return found

    def start(self, student: NDArray[np.float32], teacher: NDArray[np.float32]) -> None:
        """Initialise the maps of an objective that has its own, from full vectors [n, d] and [n, D]."""
        cast(OwnMaps, self.objective).start(student, teacher)

    def forward(self, batch: Batch) -> LossTerms:
        """The mean loss, with its terms at full length and the loss at each shorter length as `loss@m`."""
        each = [self.objective(replace(batch, student=_prefix(batch.student, dim))) for dim in self.dims]
        shorter = {f"loss@{dim}": terms.total.detach() for dim, terms in zip(self.dims[1:], each[1:], strict=True)}
        mean = mean_terms(each)
        return replace(mean, terms=mean.terms | shorter)


def _prefix(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors[:, :dim], dim=-1)
