"""Similarity distillation: match the teacher's distribution of similarities to other texts.

Fang et al. 2021, SEED: Self-supervised Distillation for Visual Representation, arXiv 2101.04731.
"""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.functional import similarity_kl
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.recipe import ObjectiveSettings


class SimilarityKL(torch.nn.Module):
    """KL from the teacher's distribution of similarities over batch and bank to that of W s, at temperature tau.

    The text itself and its copies among the candidates are left out. They would dominate the distribution.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)
        self.temperature = settings.tau

    def forward(self, batch: Batch) -> LossTerms:
        """The divergence of a batch, in nats."""
        loss = similarity_kl(
            self.projection(batch.student),
            batch.teacher,
            self.temperature,
            bank=batch.bank,
            duplicate=batch.duplicate,
        )
        return LossTerms(loss, {"kl": loss.detach()})
