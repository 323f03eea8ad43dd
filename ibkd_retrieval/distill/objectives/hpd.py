"""Homomorphic projective distillation.

Zhao et al. 2022, Compressing Sentence Representation for Semantic Retrieval via Homomorphic Projective Distillation,
arXiv 2203.07687.
"""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.recipe import ObjectiveSettings
from ibkd_retrieval.errors import UserError


class HPD(torch.nn.Module):
    """Regression on the teacher's vectors reduced to their d principal directions P and made unit: |s - P t|^2.

    The directions are those of largest second moment, not centred, because search compares inner products. W is P',
    held fixed, so that the saved student's space is the reduced one.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        if sizes.student > sizes.teacher:
            raise UserError(
                f"The objective hpd reduces the teacher's {sizes.teacher} dimensions to the student's "
                f"{sizes.student}: give `dim={sizes.teacher}` or less."
            )
        self.projection = Projection(sizes.student, sizes.teacher)
        self.projection.weight.requires_grad_(False)

    def forward(self, batch: Batch) -> LossTerms:
        """The regression loss of a batch."""
        directions = self.projection.weight[:, : batch.student.shape[1]]
        wanted = torch.nn.functional.normalize(batch.teacher @ directions, dim=-1)
        loss = (batch.student - wanted).square().sum(1).mean()
        return LossTerms(loss, {"mse": loss.detach()})
