"""W: the linear map from the student's space to the teacher's."""

from __future__ import annotations

import torch


class Projection(torch.nn.Linear):
    """W s, made unit: [n, d] -> [n, D]."""

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__(student_dim, teacher_dim, bias=False)

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        """Project and normalise, so that inner products with unit teacher vectors are cosines."""
        return torch.nn.functional.normalize(super().forward(student), dim=-1)
