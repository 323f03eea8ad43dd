"""The baselines: regression on the teacher's vectors, and contrasts with the texts of a batch."""

from __future__ import annotations

import torch

from ibkd_retrieval.distill.objectives.base import Batch, LossTerms, Sizes
from ibkd_retrieval.distill.objectives.functional import infonce, regression, similarity_kl
from ibkd_retrieval.distill.objectives.projection import Projection
from ibkd_retrieval.distill.sections import ObjectiveConfig
from ibkd_retrieval.errors import UserError


class MSE(torch.nn.Module):
    """The squared difference of W s and t, summed over dimensions. Unlike in `Cosine`, W s keeps its length."""

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)

    def forward(self, batch: Batch) -> LossTerms:
        """The regression loss of a batch."""
        loss = (self.projection.linear(batch.student) - batch.teacher).square().sum(1).mean()
        return LossTerms(loss, {"mse": loss.detach()})


class Cosine(torch.nn.Module):
    """1 - cos(W s, t), which is half the squared difference of the two at unit length."""

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)

    def forward(self, batch: Batch) -> LossTerms:
        """The mean of a batch."""
        loss = regression(self.projection(batch.student), batch.teacher)
        return LossTerms(loss, {"cosine": loss.detach()})


class HPD(torch.nn.Module):
    """|s - P t|^2, where P are the teacher's d principal directions, and P t is scaled to unit length.

    Homomorphic projective distillation: Zhao et al. 2022, Compressing Sentence Representation for Semantic Retrieval
    via Homomorphic Projective Distillation, arXiv 2203.07687.
    The directions are those of largest second moment, without centring, because search compares inner products. W is
    P', and is fixed, so that the saved student's vector space is the reduced one.
    """

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
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


class _Contrast(torch.nn.Module):
    """W at a temperature tau, and the weighted regression beside a contrast."""

    def __init__(self, sizes: Sizes, settings: ObjectiveConfig) -> None:
        super().__init__()
        self.projection = Projection(sizes.student, sizes.teacher)
        self.temperature = settings.temperature
        self.regression_weight = settings.regression_weight

    def with_regression(self, terms: LossTerms, projected: torch.Tensor, teacher: torch.Tensor) -> LossTerms:
        """Add the weighted regression of unit W s [n, D] on unit teacher vectors [n, D]. A weight of 0 adds nothing."""
        if not self.regression_weight:
            return terms
        regressed = regression(projected, teacher)
        total = terms.total + self.regression_weight * regressed
        return LossTerms(total, terms.terms | {"regression": regressed.detach()}, terms.watch)


class InfoNCE(_Contrast):
    """InfoNCE between W s and t over batch and bank, at temperature tau, plus the weighted regression of W s on t.

    Among easy negatives the contrast is solved early and then teaches little. The regression goes on teaching where the
    teacher's vectors lie. With a weight of 0 there is the contrast alone.
    """

    def forward(self, batch: Batch) -> LossTerms:
        """The keep term of a batch, with the contrast's lower bound on I(S;T) in nats."""
        projected = self.projection(batch.student)
        contrast = infonce(projected, batch.teacher, self.temperature, bank=batch.bank, duplicate=batch.duplicate)
        terms = {"keep": contrast.loss.detach(), "bound": contrast.bound}
        return self.with_regression(LossTerms(contrast.loss, terms), projected, batch.teacher)


class SimilarityKL(_Contrast):
    """KL from the teacher's distribution of similarities over batch and bank to that of W s, at temperature tau.

    Fang et al. 2021, SEED: Self-supervised Distillation for Visual Representation, arXiv 2101.04731.
    The text itself and its copies among the candidates are left out. They would dominate the distribution. The weighted
    regression of W s on t is added.
    """

    def forward(self, batch: Batch) -> LossTerms:
        """The divergence of a batch, in nats, and the regression."""
        projected = self.projection(batch.student)
        loss = similarity_kl(projected, batch.teacher, self.temperature, bank=batch.bank, duplicate=batch.duplicate)
        terms = {"kl": loss.detach()}
        return self.with_regression(LossTerms(loss, terms), projected, batch.teacher)
