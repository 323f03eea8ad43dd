"""Every choice of a distillation run, in one place, so that it can be recorded and repeated."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from ibkd_retrieval.distill.data.hard_negatives import MiningSettings
from ibkd_retrieval.distill.objectives.base import ObjectiveSettings
from ibkd_retrieval.distill.objectives.table import OBJECTIVES, WITHOUT_PROJECTION, with_temperature
from ibkd_retrieval.distill.training.loop import Pace
from ibkd_retrieval.encoders.device import DTYPES
from ibkd_retrieval.errors import UserError, option_named

LEAST = {
    "steps": 1,
    "batch_size": 2,
    "accumulate": 1,
    "max_length": 2,
    "eval_every": 0,
    "checkpoint_every": 1,
    "patience": 0,
}
"""The least that settings of either stage may be."""


def check_numbers(
    settings: object,
    least: Mapping[str, int],
    *,
    above_0: Iterable[str] = (),
    from_0: Iterable[str] = (),
    option: Callable[[str], str] = option_named,
) -> None:
    """Refuse numbers outside their range.

    Args:
        settings: their fields are looked at.
        least: of each field named, its smallest value.
        above_0: fields that are finite numbers above 0.
        from_0: fields that are finite numbers from 0 up.
        option: what the user calls a field.

    Raises:
        UserError: names the option.
    """
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give at least {smallest}.")
    for name in above_0:
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give a number above 0.")
    for name in from_0:
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"{option(name)} is {getattr(settings, name)}: give a number from 0 up.")


def check_patience(patience: int, eval_every: int) -> None:
    """Refuse to count looks where there is but one.

    Raises:
        UserError: it is so.
    """
    if patience and not eval_every:
        raise UserError("--patience counts looks at the dev set, of which there is one: give --eval-every too.")


OUTPUT_SPACES = ("student", "teacher")
PROJECTIONS = ("auto", "trained", "isometry")
HSIC_ESTIMATORS = ("biased", "unbiased", "cka")


@dataclass(frozen=True)
class DistillSettings:
    """How a student is trained.

    Attributes:
        objective: name in the table of objectives.
        steps: optimiser steps in all.
        batch_size: texts in a batch.
        accumulate: batches a step. Their losses are averaged, which is not one batch of all their texts: a text's
            negatives are those of its own batch and of the bank, and HSIC compares within a batch. Only objectives
            that look at one text at a time (mse, cosine, hpd) cannot tell.
        bank_size: extra teacher vectors a step, as negatives only.
        learning_rate: peak of the schedule (linear warm-up, then linear to zero). The default suits layers taken out
            of a teacher, which have most to learn; a small model trained before wants a fortieth of it.
        projection_learning_rate: the same for the objective's own parameters.
        freeze_embeddings: leave the token tables as they are. For layers of a teacher that is faster, and words the
            training text lacks keep their place among those it has.
        warmup: share of the steps spent warming up.
        weight_decay: AdamW's, on matrices only.
        max_length: tokens read of a training text.
        seed: of initialisation, order and bank draws.
        dtype: "auto", "float32" or "bfloat16": the arithmetic; weights stay in float32.
        eval_every: steps between looks at the dev set, 0 for the end only.
        checkpoint_every: steps between checkpoints.
        patience: looks without a better dev figure after which training ends with the best weights, 0 for never.
        output_space: "student" leaves W out of the saved model; "teacher" keeps it as a Dense module.
        projection: "trained" starts W as the least-squares map to the teacher's vectors and trains it; "isometry" holds
            it at the nearest map that changes no cosine, so that training starts from what the student knows; "auto"
            is an isometry for a small model trained before, and trained for others and in the teacher's space.
        dims: lengths at which a prefix of the student's vector is to be usable, the full one first; () for the full
            one alone.
        merge: share of the weights from before training in the finished student, whose weights are the weighted mean
            of both: it keeps more of what a small model trained before knew and the training text does not show.
            Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903; for encoders Xiao et al.
            2023, LM-Cocktail, arXiv 2311.13534.
    """

    objective: str = "ibkd"
    steps: int = 1000
    batch_size: int = 256
    accumulate: int = 1
    bank_size: int = 4096
    learning_rate: float = 2e-3
    projection_learning_rate: float = 5e-3
    freeze_embeddings: bool = False
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 96
    seed: int = 0
    dtype: str = "auto"
    eval_every: int = 100
    checkpoint_every: int = 100
    patience: int = 0
    output_space: str = "student"
    projection: str = "auto"
    dims: tuple[int, ...] = ()
    merge: float = 0.0
    objective_settings: ObjectiveSettings = field(default_factory=ObjectiveSettings)

    def __post_init__(self) -> None:
        """Check the numbers, and give the objective its own temperature where none was given.

        Raises:
            UserError: one is outside its range.
        """
        # So that what is recorded, and compared on resuming, is the number.
        object.__setattr__(self, "objective_settings", with_temperature(self.objective_settings, self.objective))
        check_numbers(self, LEAST | {"bank_size": 0}, above_0=("learning_rate", "projection_learning_rate"))
        check_numbers(self.objective_settings, {}, above_0=("temperature",), from_0=("hsic_weight",))
        check_patience(self.patience, self.eval_every)
        if self.objective not in OBJECTIVES:
            raise UserError(f"Unknown objective `{self.objective}`: use one of {', '.join(OBJECTIVES)}.")
        if self.dtype not in DTYPES:
            raise UserError(f"Unknown dtype `{self.dtype}`: use one of {', '.join(DTYPES)}.")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--warmup is {self.warmup}: give a share of the steps, from 0 to 1.")
        if not 0 <= self.merge < 1:
            raise UserError(f"--merge is {self.merge}: give a share of the weights, from 0 up and below 1.")
        terms = self.objective_settings
        if terms.hsic_bandwidth != "median" and not (
            isinstance(terms.hsic_bandwidth, int | float) and 0 < terms.hsic_bandwidth < math.inf
        ):
            raise UserError(f"--hsic-bandwidth is {terms.hsic_bandwidth}: give median or a number above 0.")
        if terms.hsic_estimator not in HSIC_ESTIMATORS:
            raise UserError(
                f"Unknown --hsic-estimator `{terms.hsic_estimator}`: use one of {', '.join(HSIC_ESTIMATORS)}."
            )
        if terms.hsic_estimator == "unbiased" and self.batch_size < 4:
            raise UserError(f"--batch-size is {self.batch_size}: the unbiased HSIC needs at least 4.")
        if self.output_space not in OUTPUT_SPACES:
            raise UserError(f"Unknown output space `{self.output_space}`: use one of {', '.join(OUTPUT_SPACES)}.")
        if self.projection not in PROJECTIONS:
            raise UserError(f"Unknown --projection `{self.projection}`: use one of {', '.join(PROJECTIONS)}.")
        if self.output_space == "teacher" and self.objective in WITHOUT_PROJECTION:
            raise UserError(
                f"The objective {self.objective} has no projection to the teacher's space: leave --output-space out."
            )
        self._check_dims()

    def _check_dims(self) -> None:
        if any(dim < 1 for dim in self.dims) or any(b >= a for a, b in pairwise(self.dims)):
            shown = ",".join(map(str, self.dims))
            raise UserError(f"--dims {shown}: give different lengths, the largest first, such as 128,64,32.")
        if self.dims and self.output_space == "teacher":
            raise UserError("A student in the teacher's space has one length: leave out --dims or --output-space.")

    @property
    def needs_output_layer(self) -> bool:
        """Whether W is held fixed, so that the student must have a linear layer of its own behind the pooling."""
        return self.objective == "hpd" or bool(self.dims)

    @property
    def pace(self) -> Pace:
        """Steps, looks and checkpoints."""
        texts = self.batch_size * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}


def paper_preset(settings: DistillSettings, keep: Collection[str] = ()) -> DistillSettings:
    """The published STS settings of stage 1 (arXiv 2311.05472): lambda 0.2, tau 1, gamma 1, batch 256, lr 1e-4.

    Args:
        settings: what the publication does not say stays as it is.
        keep: names of settings, the objective's among them, that stay as they are too.
    """
    published: dict[str, Any] = {
        "objective": "ibkd",
        "batch_size": 256,
        "bank_size": 0,
        "learning_rate": 1e-4,
        "projection_learning_rate": 1e-4,
        "max_length": 128,
        "projection": "trained",
        "merge": 0.0,
    }
    terms: dict[str, Any] = {
        "temperature": 1.0,
        "hsic_weight": 0.2,
        "hsic_bandwidth": 1.0,
        "hsic_estimator": "biased",
    }
    return preset(settings, published, terms, keep)


def preset(
    settings: DistillSettings, values: dict[str, Any], terms: dict[str, Any], keep: Collection[str]
) -> DistillSettings:
    """`settings` with other `values`, and with other `terms` of the objective, but where a name is in `keep`."""
    return replace(
        settings,
        **{name: value for name, value in values.items() if name not in keep},
        objective_settings=replace(
            settings.objective_settings, **{name: value for name, value in terms.items() if name not in keep}
        ),
    )


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
