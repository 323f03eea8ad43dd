"""IBKD, stage 1: keep what the teacher knows, forget what only the input has.

Text Representation Distillation via Information Bottleneck Principle, arXiv 2311.05472.
"""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.information import gaussian_kernel, hsic, off_diagonal_mean
from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, ObjectiveSettings
from ibkd_retrieval.distill.objectives.infonce import InfoNCE


class IBKD(torch.nn.Module):
    """L_keep + lambda * HSIC(X, S).

    X is the student's input representation, S its unit output. Both kernels are Gaussian; with a fixed
    bandwidth of 1 on vectors of norm ~6 they would be identity matrices and HSIC a constant without
    gradient, hence unit vectors and the median bandwidth unless told otherwise.
    """

    def __init__(self, student_dim: int, teacher_dim: int, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.keep = InfoNCE(student_dim, teacher_dim, settings)
        self.weight = settings.hsic_weight
        self.bandwidth = settings.hsic_bandwidth

    @property
    def projection(self) -> torch.nn.Module:
        """W, from the student's space to the teacher's."""
        return self.keep.projection

    def forward(self, batch: Batch) -> LossTerms:
        """Both terms of a batch; the kernels' off-diagonal means show whether HSIC can see anything."""
        kept = self.keep(batch)
        inputs = torch.nn.functional.normalize(batch.inputs, dim=-1)
        kernel_x = gaussian_kernel(inputs, self.bandwidth)
        kernel_s = gaussian_kernel(batch.student, self.bandwidth)
        forget = hsic(kernel_x, kernel_s)
        terms = kept.terms | {
            "hsic": forget.detach(),
            "kernel_x": off_diagonal_mean(kernel_x).detach(),
            "kernel_s": off_diagonal_mean(kernel_s).detach(),
        }
        return LossTerms(kept.total + self.weight * forget, terms, watch={"hsic": self.weight * forget})
