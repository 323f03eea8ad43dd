"""Contrastive representation distillation.

Tian et al. 2020, Contrastive Representation Distillation, arXiv 1910.10699.
"""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.information import nce
from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, ObjectiveSettings, Sizes
from ibkd_retrieval.distill.objectives.projection import Projection

_FEATURES = 128
"""Length of the vectors that are contrasted, as published."""


class CRD(torch.nn.Module):
    """Noise-contrastive estimation between two linear maps, one of the student's vectors and one of the teacher's.

    Its negatives are the batch's and the bank's teacher vectors. The published form also contrasts a teacher vector
    with other texts' student vectors from a memory, which are stale by as many steps as an epoch has; it is left out.
    Neither map is W: the student keeps a space of its own.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.of_student = Projection(sizes.student, _FEATURES)
        self.of_teacher = Projection(sizes.teacher, _FEATURES)
        self.temperature = settings.temperature
        self.population = sizes.texts

    def forward(self, batch: Batch) -> LossTerms:
        """The contrast of a batch."""
        loss = nce(
            self.of_student(batch.student),
            self.of_teacher(batch.teacher),
            self.temperature,
            self.population,
            bank=None if batch.bank is None else self.of_teacher(batch.bank),
            duplicate=batch.duplicate,
        )
        return LossTerms(loss, {"nce": loss.detach()})
