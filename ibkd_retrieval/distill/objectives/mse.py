"""Regression on the teacher's vectors."""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.recipe import ObjectiveSettings


class MSE(torch.nn.Module):
    """Mean squared difference of W s and t, summed over dimensions. W s keeps its length: compare `Cosine`."""

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)

    def forward(self, batch: Batch) -> LossTerms:
        """The regression loss of a batch."""
        loss = (self.projection.linear(batch.student) - batch.teacher).square().sum(1).mean()
        return LossTerms(loss, {"mse": loss.detach()})
