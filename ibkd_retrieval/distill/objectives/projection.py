"""W: the linear map from the student's space to the teacher's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


class Projection(torch.nn.Linear):
    """The map from s to W s, scaled to unit length: [n, d] -> [n, D].

    A prefix of the student's vector, [n, m] with m < d, is mapped by the first m columns of W.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__(student_dim, teacher_dim, bias=False)

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        """Project and normalise, so that inner products with unit teacher vectors are cosines."""
        return torch.nn.functional.normalize(self.linear(student), dim=-1)

    def linear(self, student: torch.Tensor) -> torch.Tensor:
        """W s without scaling, [n, D]."""
        return torch.nn.functional.linear(student, self.weight[:, : student.shape[1]])

    def set(self, matrix: NDArray[np.float64]) -> None:
        """Set W to `matrix` [D, d]."""
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(matrix))

    def hold(self, directions: NDArray[np.float32]) -> None:
        """Set W' to orthonormal `directions` [d, D] and freeze it.

        Then cos(W s, W s') = cos(s, s'), for every prefix of s too.
        """
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(np.ascontiguousarray(directions.T)))


def nearest_isometry(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """The Q [D, d] with orthonormal columns that minimises |Q x_i - y_i|^2 over the rows of x [n, d] and y [n, D].

    This is orthogonal Procrustes: Schönemann 1966, doi 10.1007/BF02289451. Q changes no cosine among the x_i.

    Raises:
        ValueError: d is larger than D.
    """
    if x.shape[1] > y.shape[1]:
        raise ValueError(f"no isometry takes {x.shape[1]} dimensions to {y.shape[1]}")
    return unstretched(x, y)


def unstretched(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float64]:
    """`nearest_isometry` for any sizes. If d is larger than D, the rows of Q [D, d] are orthonormal."""
    left, _, right = np.linalg.svd(y.astype(np.float64).T @ x.astype(np.float64), full_matrices=False)
    return np.ascontiguousarray(left @ right)


def least_squares(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """The A [D, d] that minimises |A x_i - y_i|^2 over the rows of x [n, d] and y [n, D], with a small ridge."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    ridge = 1e-3 * np.trace(x64.T @ x64) / x.shape[1]
    solution = np.linalg.solve(x64.T @ x64 + ridge * np.eye(x.shape[1]), x64.T @ y64)
    return np.ascontiguousarray(solution.T)
