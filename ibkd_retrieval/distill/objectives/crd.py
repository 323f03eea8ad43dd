"""Contrastive representation distillation.

Tian et al. 2020, Contrastive Representation Distillation, arXiv 1910.10699.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.functional import nce
from ibkd_retrieval.distill.objectives.projection import Projection, unstretched
from ibkd_retrieval.distill.sections import ObjectiveConfig
from ibkd_retrieval.encoders.students import principal_directions

_FEATURES = 128
"""Maximum number of dimensions of the vectors that are contrasted, as published."""


class CRD(torch.nn.Module):
    """Noise-contrastive estimation between two linear maps, one of the student's vectors and one of the teacher's.

    The loss is the sum of both published halves: each student vector against the teacher vectors of batch and bank, and
    each teacher vector against student vectors. The negatives of the second half are the batch's own student vectors,
    with gradient. The published form takes them from a memory of all texts, in which a vector is up to an epoch old.
    Ours are fewer but current, and a step does not depend on earlier steps.

    Neither map is W, so the student keeps its own vector space.
    """

    log_mean: torch.Tensor

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
        super().__init__()
        features = min(_FEATURES, sizes.teacher)
        self.of_student = Projection(sizes.student, features)
        self.of_teacher = Projection(sizes.teacher, features)
        self.temperature = settings.temperature
        self.register_buffer("log_mean", torch.zeros(()))

    def start(self, student: NDArray[np.float32], teacher: NDArray[np.float32]) -> None:
        """Initialise both maps so that their images agree as far as possible, and compute the constant of the loss.

        The teacher's map is its principal directions. The student's is the nearest map to their images that stretches
        nothing.

        Args:
            student: vectors of the untrained student [n, d].
            teacher: the teacher's vectors of the same texts [n, D].
        """
        directions = principal_directions(teacher, len(self.of_teacher.weight)).astype(np.float64)
        self.of_teacher.set(directions)
        self.of_student.set(unstretched(student, teacher @ directions.T))
        device = self.log_mean.device
        with torch.no_grad():
            images = self.of_student(torch.from_numpy(student).to(device))
            similar = images @ self.of_teacher(torch.from_numpy(teacher).to(device)).T / self.temperature
            similar.fill_diagonal_(-torch.inf)
            pairs = similar.shape[0] * (similar.shape[0] - 1)
            self.log_mean.copy_(similar.flatten().logsumexp(0) - math.log(pairs))

    def forward(self, batch: Batch) -> LossTerms:
        """The sum of both contrasts of a batch."""
        student, teacher = self.of_student(batch.student), self.of_teacher(batch.teacher)
        bank = None if batch.bank is None else self.of_teacher(batch.bank)
        of_students = nce(student, teacher, self.temperature, self.log_mean, bank=bank, duplicate=batch.duplicate)
        # Equal texts of a batch are the same from either side.
        in_batch = None if batch.duplicate is None else batch.duplicate[:, : len(student)]
        of_teachers = nce(teacher, student, self.temperature, self.log_mean, duplicate=in_batch)
        terms = {"nce": of_students.detach(), "nce_of_teacher": of_teachers.detach()}
        return LossTerms(of_students + of_teachers, terms)
