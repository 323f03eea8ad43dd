"""The angle to the teacher's vectors."""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.recipe import ObjectiveSettings


class Cosine(torch.nn.Module):
    """1 - cos(W s, t), which is half the squared difference of the two made unit."""

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)

    def forward(self, batch: Batch) -> LossTerms:
        """The mean over a batch."""
        loss = 1 - (self.projection(batch.student) * batch.teacher).sum(1).mean()
        return LossTerms(loss, {"cosine": loss.detach()})
