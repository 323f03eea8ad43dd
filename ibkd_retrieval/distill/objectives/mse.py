"""Regression on the teacher's vectors."""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, ObjectiveSettings
from ibkd_retrieval.distill.objectives.projection import Projection


class MSE(torch.nn.Module):
    """Mean squared difference of W s and t, both unit, summed over dimensions: 2 - 2 cos(W s, t)."""

    def __init__(self, student_dim: int, teacher_dim: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projection = Projection(student_dim, teacher_dim)

    def forward(self, batch: Batch) -> LossTerms:
        """The regression loss of a batch."""
        loss = (self.projection(batch.student) - batch.teacher).square().sum(1).mean()
        return LossTerms(loss, {"mse": loss.detach()})
