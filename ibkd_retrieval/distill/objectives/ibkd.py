"""IBKD, stage 1: keep the teacher's information, and forget the input's other information.

Text Representation Distillation via Information Bottleneck Principle, arXiv 2311.05472.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.forgetting import forgetting
from ibkd_retrieval.distill.objectives.infonce import InfoNCE
from ibkd_retrieval.distill.recipe import ObjectiveSettings


class IBKD(torch.nn.Module):
    """L_keep + lambda * HSIC(X, S), X the student's input representation and S its unit output.

    A static student has no X apart from S, and learns from L_keep alone.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.keep = InfoNCE(sizes, settings)
        self.settings = settings

    @property
    def projection(self) -> torch.nn.Module:
        """W, from the student's space to the teacher's."""
        return self.keep.projection

    def forward(self, batch: Batch) -> LossTerms:
        """Both terms of a batch."""
        kept: LossTerms = self.keep(batch)
        if batch.inputs is None:
            return kept
        with batch.times.part("hsic") if batch.times else nullcontext():
            forgot = forgetting(batch.student, batch.inputs, self.settings)
        return LossTerms(kept.total + forgot.total, kept.terms | forgot.terms, forgot.watch)
