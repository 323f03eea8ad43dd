"""IBKD, stage 1: keep the teacher's information, and forget the input's other information.

Text Representation Distillation via Information Bottleneck Principle, arXiv 2311.05472.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.baselines import InfoNCE
from ibkd_retrieval.distill.objectives.functional import cka, gaussian_kernel, hsic, off_diagonal_mean, unbiased_hsic
from ibkd_retrieval.distill.sections import ObjectiveConfig

_ESTIMATORS = {"biased": hsic, "unbiased": unbiased_hsic, "cka": cka}


def forgetting(student: torch.Tensor, inputs: torch.Tensor, settings: ObjectiveConfig) -> LossTerms:
    """The term lambda * HSIC(X, S) of a batch. The off-diagonal means of the kernels show whether it is informative.

    Both kernels are Gaussian. With vectors of norm 6 and a bandwidth of 1, they would be identity matrices, and HSIC a
    constant without gradient. So vectors are normalised, and the default bandwidth is the median.

    Args:
        student: unit student vectors [n, d], with gradient.
        inputs: the student's input representation [n, e], without gradient. It is normalised here.
        settings: weight, bandwidth and estimator.
    """
    kernel_x = gaussian_kernel(torch.nn.functional.normalize(inputs, dim=-1), settings.hsic_bandwidth)
    kernel_s = gaussian_kernel(student, settings.hsic_bandwidth)
    forget = _ESTIMATORS[settings.hsic_estimator](kernel_x, kernel_s)
    terms = {
        "hsic": forget.detach(),
        "kernel_x": off_diagonal_mean(kernel_x).detach(),
        "kernel_s": off_diagonal_mean(kernel_s).detach(),
    }
    weighted = settings.hsic_weight * forget
    return LossTerms(weighted, terms, watch={"hsic": weighted})


class IBKD(torch.nn.Module):
    """L_keep + lambda * HSIC(X, S), where X is the student's input representation and S its unit output.

    The input representation of a static student is its output, so it learns from L_keep alone.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
        super().__init__()
        self.keep = InfoNCE(sizes, settings)
        self.settings = settings

    @property
    def projection(self) -> torch.nn.Module:
        """W, from the student's space to the teacher's."""
        return self.keep.projection

    def forward(self, batch: Batch) -> LossTerms:
        """The sum of both terms for a batch."""
        kept: LossTerms = self.keep(batch)
        if batch.inputs is None:
            return kept
        with batch.times.part("hsic") if batch.times else nullcontext():
            forgot = forgetting(batch.student, batch.inputs, self.settings)
        return LossTerms(kept.total + forgot.total, kept.terms | forgot.terms, forgot.watch)
