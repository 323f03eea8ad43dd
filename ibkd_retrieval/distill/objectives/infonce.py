"""Contrastive distillation alone: IBKD without its forgetting term."""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.functional import infonce
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.recipe import ObjectiveSettings


class InfoNCE(torch.nn.Module):
    """InfoNCE between W s and t over batch and bank, at temperature tau."""

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)
        self.temperature = settings.tau

    def forward(self, batch: Batch) -> LossTerms:
        """The keep term of a batch, with its lower bound on I(S;T) in nats."""
        contrast = infonce(
            self.projection(batch.student), batch.teacher, self.temperature, bank=batch.bank, duplicate=batch.duplicate
        )
        return LossTerms(contrast.loss, {"keep": contrast.loss.detach(), "bound": contrast.bound})
