"""How one run trains: the student, the recipes of both stages, and the checks of their numbers.

`defaults.recipe_of` makes these of a `DistillConfig`. They are recorded in `ibkd.json` and in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from ibkd_retrieval.distill.objectives.table import OBJECTIVES, WITHOUT_PROJECTION, with_temperature
from ibkd_retrieval.encoders.device import DTYPES
from ibkd_retrieval.encoders.loading import short_model_name
from ibkd_retrieval.errors import UserError

STATIC = "static"


@dataclass(frozen=True)
class StudentPlan:
    """How the student is initialised.

    Attributes:
        model: a small model by folder or hub name, or "static" for one vector a token out of the teacher; None takes
            layers of the teacher.
        layers: how many layers, evenly spaced, or their positions.
        dim: output length, None for the model's own.
        pooling: "mean" or "cls", for a plain transformers encoder.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int | None = None
    pooling: str | None = None

    @property
    def trained_before(self) -> bool:
        """Whether it is a small model that others trained, and not made out of the teacher."""
        return self.model not in (None, STATIC)

    @property
    def could_encode(self) -> bool:
        """Whether it is such a model as a whole, whose vectors were of use before."""
        return self.trained_before and self.pooling is None and self.layers is None

    def name(self, teacher: str, objective: str) -> str:
        """A folder name that tells students apart: `all-MiniLM-L6-v2-l2-d128-ibkd`."""
        parts = [
            f"{short_model_name(teacher)}-static" if self.model == STATIC else short_model_name(self.model or teacher)
        ]
        if self.layers is not None:
            parts.append(f"l{self.layers}" if isinstance(self.layers, int) else "l" + "_".join(map(str, self.layers)))
        if self.dim is not None:
            parts.append(f"d{self.dim}")
        return "-".join([*parts, objective])


@dataclass(frozen=True)
class ObjectiveSettings:
    """Settings of a distillation loss.

    Attributes:
        temperature: tau of the contrast; smaller looks harder at the nearest negatives. None is the objective's own.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of its Gaussian kernels, or "median" to follow the batch.
        hsic_estimator: "biased", "unbiased", or "cka" for the normalised one.
    """

    temperature: float | None = None
    hsic_weight: float = 0.2
    hsic_bandwidth: float | str = "median"
    hsic_estimator: str = "biased"

    @property
    def tau(self) -> float:
        """The temperature, once an objective has been chosen."""
        if self.temperature is None:
            raise ValueError("no temperature yet: with_temperature() gives the objective's own")
        return self.temperature


@dataclass(frozen=True)
class MiningSettings:
    """Which of the teacher's results become hard negatives.

    Attributes:
        first: best rank taken, counted from 1. The ranks before it hold answers that nobody judged.
        last: worst rank taken.
        margin: results that score above the best positive's score less this much are left out as likely answers.
        most: negatives kept for a query, spread evenly over what is left of the ranks.
    """

    first: int = 10
    last: int = 100
    margin: float = 0.05
    most: int = 16

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: one is outside its range.
        """
        if not 1 <= self.first <= self.last:
            raise UserError(f"`negative_ranks` {self.first}-{self.last}: give a range of ranks such as 10-100.")
        if not self.margin >= 0:
            raise UserError(f"`negative_margin` is {self.margin}: give a number from 0 up.")


@dataclass(frozen=True)
class Pace:
    """How long a run goes on and how often it is evaluated.

    Attributes:
        steps: optimiser steps in all.
        texts_per_step: for the speed that is shown.
        eval_every: steps between evaluations on the dev set, 0 for the end only.
        checkpoint_every: steps between checkpoints.
        patience: evaluations without a better dev figure after which training ends with the best weights; 0 goes to
            the end and keeps the last.
    """

    steps: int
    texts_per_step: int
    eval_every: int
    checkpoint_every: int
    patience: int = 0


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
    prefixed: Iterable[str] = (),
) -> None:
    """Refuse numbers outside their range.

    Args:
        settings: the object whose fields are checked.
        least: the smallest value of each field named.
        above_0: fields that are finite numbers above 0.
        from_0: fields that are finite numbers from 0 up.
        prefixed: fields whose parameter is called `finetune_...`.

    Raises:
        UserError: names the parameter.
    """

    def refuse(name: str, wanted: str) -> UserError:
        shown = f"finetune_{name}" if name in prefixed else name
        return UserError(f"`{shown}` is {getattr(settings, name)}: give {wanted}.")

    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise refuse(name, f"at least {smallest}")
    for name in above_0:
        if not 0 < getattr(settings, name) < math.inf:
            raise refuse(name, "a number above 0")
    for name in from_0:
        if not 0 <= getattr(settings, name) < math.inf:
            raise refuse(name, "a number from 0 up")


def check_patience(patience: int, eval_every: int) -> None:
    """Refuse patience without periodic evaluation.

    Raises:
        UserError: training is evaluated at its end only.
    """
    if patience and not eval_every:
        raise UserError("`patience` needs periodic evaluation on the dev set: give `eval_every` too.")


OUTPUT_SPACES = ("student", "teacher")
PROJECTIONS = ("auto", "trained", "isometry")
HSIC_ESTIMATORS = ("biased", "unbiased", "cka")


@dataclass(frozen=True)
class DistillSettings:
    """The recipe of stage 1: a student learns the teacher's vectors from unlabelled text.

    Attributes:
        objective: name in the table of objectives.
        steps: optimiser steps in all.
        batch_size: texts in a batch.
        accumulate: batches a step. Their losses are averaged, which is not one batch of all their texts: a text's
            negatives are those of its own batch and of the bank, and HSIC compares within a batch. Only objectives
            that look at one text at a time (mse, cosine, hpd) cannot tell.
        bank_size: extra teacher vectors a step, as negatives only.
        learning_rate: peak of the schedule (linear warm-up, then linear to zero). None is what suits the kind of
            student and, for layers of a teacher, the teacher's width (`defaults.usual_learning_rate`).
        projection_learning_rate: the same for the objective's own parameters.
        freeze_embeddings: leave the token tables as they are. For layers of a teacher that is faster, and words the
            training text lacks keep their place among those it has.
        warmup: share of the steps spent warming up.
        weight_decay: AdamW's, on matrices only.
        max_length: tokens read of a training text.
        seed: of initialisation, order and bank draws.
        dtype: "auto", "float32" or "bfloat16": the arithmetic; weights stay in float32.
        eval_every: steps between evaluations on the dev set, 0 for the end only.
        checkpoint_every: steps between checkpoints.
        patience: evaluations without a better dev figure after which training ends with the best weights, 0 for never.
        output_space: "student" leaves W out of the saved model; "teacher" keeps it as a Dense module.
        projection: "trained" starts W as the least-squares map to the teacher's vectors and trains it; "isometry" holds
            it at the nearest map that changes no cosine, so that training starts from what the student knows; "auto"
            is an isometry for a small model trained before, and trained for others and in the teacher's space.
        dims: Matryoshka dims: lengths to which the student's vectors may be cut, the full one first; () for the full
            one alone.
        merge: share of the weights from before training in the finished student, whose weights are the weighted mean
            of both: it keeps more of what a small model trained before knew and the training text does not show.
            Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903; for encoders Xiao et al.
            2023, LM-Cocktail, arXiv 2311.13534.
    """

    objective: str = "ibkd"
    steps: int = 500
    batch_size: int = 256
    accumulate: int = 1
    bank_size: int = 4096
    learning_rate: float | None = None
    projection_learning_rate: float = 5e-3
    freeze_embeddings: bool = False
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int = 96
    seed: int = 0
    dtype: str = "auto"
    eval_every: int = 200
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
        rates = ("projection_learning_rate", *(["learning_rate"] if self.learning_rate is not None else []))
        check_numbers(self, LEAST | {"bank_size": 0}, above_0=rates)
        check_numbers(self.objective_settings, {}, above_0=("temperature",), from_0=("hsic_weight",))
        check_patience(self.patience, self.eval_every)
        if self.objective not in OBJECTIVES:
            raise UserError(f"Unknown objective `{self.objective}`: use one of {', '.join(OBJECTIVES)}.")
        if self.dtype not in DTYPES:
            raise UserError(f"Unknown dtype `{self.dtype}`: use one of {', '.join(DTYPES)}.")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"`warmup` is {self.warmup}: give a share of the steps, from 0 to 1.")
        if not 0 <= self.merge < 1:
            raise UserError(f"`merge` is {self.merge}: give a share of the weights, from 0 up and below 1.")
        terms = self.objective_settings
        if terms.hsic_bandwidth != "median" and not (
            isinstance(terms.hsic_bandwidth, int | float) and 0 < terms.hsic_bandwidth < math.inf
        ):
            raise UserError(f"`hsic_bandwidth` is {terms.hsic_bandwidth}: give median or a number above 0.")
        if terms.hsic_estimator not in HSIC_ESTIMATORS:
            raise UserError(
                f"Unknown `hsic_estimator` {terms.hsic_estimator!r}: use one of {', '.join(HSIC_ESTIMATORS)}."
            )
        if terms.hsic_estimator == "unbiased" and self.batch_size < 4:
            raise UserError(f"`batch_size` is {self.batch_size}: the unbiased HSIC needs at least 4.")
        if self.output_space not in OUTPUT_SPACES:
            raise UserError(f"Unknown output space `{self.output_space}`: use one of {', '.join(OUTPUT_SPACES)}.")
        if self.projection not in PROJECTIONS:
            raise UserError(f"Unknown `projection` {self.projection!r}: use one of {', '.join(PROJECTIONS)}.")
        if self.output_space == "teacher" and self.objective in WITHOUT_PROJECTION:
            raise UserError(
                f"The objective {self.objective} has no projection to the teacher's space: leave `output_space` out."
            )
        self._check_dims()

    def _check_dims(self) -> None:
        if any(dim < 1 for dim in self.dims) or any(b >= a for a, b in pairwise(self.dims)):
            shown = ",".join(map(str, self.dims))
            raise UserError(f"`dims` {shown}: give different lengths, the largest first, such as 128,64,32.")
        if self.dims and self.output_space == "teacher":
            raise UserError("A student in the teacher's space has one length: leave out `dims` or `output_space`.")

    @property
    def needs_output_layer(self) -> bool:
        """Whether W is held fixed, so that the student must have a linear layer of its own behind the pooling."""
        return self.objective == "hpd" or bool(self.dims)

    @property
    def pace(self) -> Pace:
        """Steps, evaluations and checkpoints."""
        texts = self.batch_size * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}


@dataclass(frozen=True)
class FinetuneSettings:
    """The recipe of stage 2: fine-tuning on pairs of query and passage.

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
        dims: Matryoshka dims, as for stage 1.
        eval_every: steps between evaluations on the dev set, 0 for the end only.
        checkpoint_every: steps between checkpoints.
        patience: evaluations without a better dev figure after which training ends with the best weights, 0 for never.
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
    eval_every: int = 200
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
            prefixed=("steps", "batch_size", "learning_rate", "temperature", "hsic_weight"),
        )
        check_patience(self.patience, self.eval_every)
        if self.soft_labels not in (None, "teacher") and not self.negatives:
            raise UserError(
                "A cross-encoder's soft labels grade a query's own candidates, and with `negatives=0` there is only "
                "one: give `negatives=1` or more."
            )

    @property
    def forgetting(self) -> ObjectiveSettings:
        """Settings of the forgetting term."""
        return ObjectiveSettings(self.temperature, self.hsic_weight, self.hsic_bandwidth, self.hsic_estimator)

    @property
    def pace(self) -> Pace:
        """Steps, evaluations and checkpoints; texts a step are queries, positives and negatives."""
        texts = self.batch_size * (2 + self.negatives) * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}
