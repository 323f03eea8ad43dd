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

    Both halves of the published loss are added: each student vector against teacher vectors, of the batch and the bank,
    and each teacher vector against student vectors. The negatives of the second half are the batch's own student
    vectors, with gradient. The published form takes them from a memory of all texts, in which they are as old as an
    epoch is long; ours are few and fresh, and a step depends on nothing before it.

    Neither map is W: the student keeps a space of its own.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.of_student = Projection(sizes.student, _FEATURES)
        self.of_teacher = Projection(sizes.teacher, _FEATURES)
        self.temperature = settings.temperature
        self.population = sizes.texts

    def forward(self, batch: Batch) -> LossTerms:
        """The sum of both contrasts of a batch."""
        student, teacher = self.of_student(batch.student), self.of_teacher(batch.teacher)
        bank = None if batch.bank is None else self.of_teacher(batch.bank)
        of_students = nce(student, teacher, self.temperature, self.population, bank=bank, duplicate=batch.duplicate)
        # Which texts of a batch are equal is the same seen from either side.
        in_batch = None if batch.duplicate is None else batch.duplicate[:, : len(student)]
        of_teachers = nce(teacher, student, self.temperature, self.population, duplicate=in_batch)
        terms = {"nce": of_students.detach(), "nce_of_teacher": of_teachers.detach()}
        return LossTerms(of_students + of_teachers, terms)
