"""Every choice of stage 2, so that it can be recorded and repeated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ibkd_retrieval.distill.checking import LEAST, check_numbers, check_patience
from ibkd_retrieval.distill.hard_negatives import MiningSettings
from ibkd_retrieval.distill.loop import Pace
from ibkd_retrieval.distill.objectives.base import ObjectiveSettings
from ibkd_retrieval.errors import UserError, option_named

# The other options are those of both stages, or are this stage's alone.
_OPTIONS = {
    name: f"--finetune-{name.replace('_', '-')}"
    for name in ("steps", "batch_size", "learning_rate", "temperature", "hsic_weight")
}


@dataclass(frozen=True)
class FinetuneSettings:
    """How a student is fine-tuned on pairs.

    Attributes:
        steps: optimiser steps in all.
        batch_size: queries a step, each with one positive.
        accumulate: batches a step, as for stage 1: a query's candidates are those of its own batch.
        negatives: hard negatives a query and step; all passages of a step are candidates for all its queries.
        learning_rate: peak of the schedule (linear warm-up, then linear to zero).
        temperature: tau of the contrast and of the soft labels' student side.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of its kernels, or "median".
        hsic_estimator: as for stage 1.
        soft_labels: None, "teacher", or a cross-encoder by folder or hub name.
        soft_weight: weight of the divergence from the soft labels.
        mining: which hard negatives; None mines none.
        freeze_embeddings: leave the token tables as they are.
        warmup: share of the steps spent warming up.
        weight_decay: AdamW's, on matrices only.
        max_length: tokens read of a query or passage.
        seed: of order and draws.
        dtype: the arithmetic, as for stage 1.
        dims: lengths at which a prefix of the vector is to be usable, as for stage 1.
        eval_every: steps between looks at the dev set, 0 for the end only.
        checkpoint_every: steps between checkpoints.
        patience: looks without a better dev figure after which training ends with the best weights, 0 for never.
    """

    steps: int = 500
    batch_size: int = 128
    accumulate: int = 1
    negatives: int = 1
    learning_rate: float = 2e-5
    temperature: float = 0.05
    hsic_weight: float = 1.0
    hsic_bandwidth: float | str = "median"
    hsic_estimator: str = "biased"
    soft_labels: str | None = None
    soft_weight: float = 1.0
    mining: MiningSettings | None = field(default_factory=MiningSettings)
    freeze_embeddings: bool = False
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 96
    seed: int = 0
    dtype: str = "auto"
    dims: tuple[int, ...] = ()
    eval_every: int = 100
    checkpoint_every: int = 100
    patience: int = 0

    def __post_init__(self) -> None:
        """Check the numbers that stage 1 does not share.

        Raises:
            UserError: one is outside its range.
        """
        check_numbers(
            self,
            LEAST | {"negatives": 0},
            above_0=("learning_rate", "temperature"),
            from_0=("hsic_weight", "soft_weight"),
            option=lambda name: _OPTIONS.get(name) or option_named(name),
        )
        check_patience(self.patience, self.eval_every)
        if self.soft_labels not in (None, "teacher") and not self.negatives:
            raise UserError(
                "A cross-encoder's soft labels grade a query's own candidates, and with --negatives 0 there is but "
                "one: give --negatives 1 or more."
            )

    @property
    def forgetting(self) -> ObjectiveSettings:
        """What the forgetting term reads."""
        return ObjectiveSettings(self.temperature, self.hsic_weight, self.hsic_bandwidth, self.hsic_estimator)

    @property
    def pace(self) -> Pace:
        """Steps, looks and checkpoints; texts a step are queries, positives and negatives."""
        texts = self.batch_size * (2 + self.negatives) * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}


def paper_finetuning(settings: FinetuneSettings, keep: Collection[str] = ()) -> FinetuneSettings:
    """The published STS settings of stage 2 (arXiv 2311.05472): lambda 1, tau 0.05, gamma 1, batch 128, lr 1e-6.

    It runs for 3 epochs there; steps are the caller's.

    Args:
        settings: what the publication does not say stays as it is.
        keep: names of settings that stay as they are too.
    """
    published: dict[str, Any] = {
        "batch_size": 128,
        "learning_rate": 1e-6,
        "temperature": 0.05,
        "hsic_weight": 1.0,
        "hsic_bandwidth": 1.0,
        "hsic_estimator": "biased",
        "max_length": 128,
    }
    return replace(settings, **{name: value for name, value in published.items() if name not in keep})
