"""The student plan, the recipes of both stages, and the checks of their values.

`defaults.recipe_of` makes them from a `DistillConfig`. They are recorded in `ibkd.json` and in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from ibkd_retrieval.distill.objectives import OBJECTIVES, WITHOUT_PROJECTION, with_temperature
from ibkd_retrieval.encoders.device import DTYPES
from ibkd_retrieval.encoders.loading import short_model_name
from ibkd_retrieval.errors import UserError

STATIC = "static"


@dataclass(frozen=True)
class StudentPlan:
    """How the student is initialised.

    Attributes:
        model: a small model by folder or hub name. "static" makes a table of one vector per token from the teacher.
            None takes layers of the teacher.
        layers: number of layers, evenly spaced, or their positions.
        dim: output dimensions, or None for the model's own number.
        pooling: "mean" or "cls", for a plain transformers encoder.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int | None = None
    pooling: str | None = None

    @property
    def trained_before(self) -> bool:
        """Whether the student is a pretrained model, not one made from the teacher."""
        return self.model not in (None, STATIC)

    @property
    def could_encode(self) -> bool:
        """Whether the student is a complete pretrained text encoder, whose vectors are useful before training."""
        return self.trained_before and self.pooling is None and self.layers is None

    def name(self, teacher: str, objective: str) -> str:
        """A folder name that identifies the student, such as `all-MiniLM-L6-v2-l2-d128-ibkd`."""
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
        temperature: temperature tau of the contrastive loss. A smaller value weights the nearest negatives more. None
            is the objective's default.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of the Gaussian kernels, or "median" to set it from each batch.
        hsic_estimator: "biased", "unbiased", or "cka" for the normalised estimator.
        regression_weight: weight of the regression, 1 - mean cosine of W s and t, beside a contrast or `kl`. 0 leaves
            it out.
    """

    temperature: float | None = None
    hsic_weight: float = 0.2
    hsic_bandwidth: float | str = "median"
    hsic_estimator: str = "biased"
    regression_weight: float = 0.0

    @property
    def tau(self) -> float:
        """The temperature. It is known once an objective has been chosen."""
        if self.temperature is None:
            raise ValueError("no temperature yet: with_temperature() gives the objective's own")
        return self.temperature


@dataclass(frozen=True)
class MiningSettings:
    """Which of the teacher's results become hard negatives.

    Attributes:
        first: best rank taken, counted from 1. Better ranks often hold answers without a judgement.
        last: worst rank taken.
        margin: a result is left out as a likely answer if it scores above the best positive's score minus this margin.
        most: maximum number of negatives per query, evenly spaced over the remaining ranks.
    """

    first: int = 10
    last: int = 100
    margin: float = 0.05
    most: int = 16

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is outside its range.
        """
        if not 1 <= self.first <= self.last:
            raise UserError(f"`negative_ranks` {self.first}-{self.last}: give a range of ranks such as 10-100.")
        if not self.margin >= 0:
            raise UserError(f"`negative_margin` is {self.margin}: give a number from 0 up.")


@dataclass(frozen=True)
class Pace:
    """The length of a run and the intervals of its evaluations and checkpoints.

    Attributes:
        steps: total number of optimiser steps.
        texts_per_step: texts per optimiser step, to report the speed.
        eval_every: steps between evaluations on the dev set. 0 evaluates at the end only.
        checkpoint_every: steps between checkpoints.
        patience: number of evaluations without improvement after which training stops. The best weights are kept. 0
            trains to the end and keeps the last weights.
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
"""The smallest valid value of settings that both stages have."""


def check_numbers(
    settings: object,
    least: Mapping[str, int],
    *,
    above_0: Iterable[str] = (),
    from_0: Iterable[str] = (),
    prefixed: Iterable[str] = (),
) -> None:
    """Check that numbers are inside their range.

    Args:
        settings: the object whose fields are checked.
        least: the smallest valid value by field.
        above_0: fields that must be finite and above 0.
        from_0: fields that must be finite and at least 0.
        prefixed: fields whose parameter is called `finetune_...`.

    Raises:
        UserError: a value is outside its range. The message names the parameter.
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
    """Check that `patience` has periodic evaluations to work with.

    Raises:
        UserError: the student is evaluated at the end only.
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
        objective: name of the objective, one of `objectives.table.OBJECTIVES`.
        steps: total number of optimiser steps.
        batch_size: texts per batch.
        accumulate: batches per optimiser step (gradient accumulation). Their losses are averaged. This differs from one
            large batch: negatives come from a text's own batch and the bank, and HSIC compares within a batch. It makes
            no difference to objectives that compare one text at a time (mse, cosine, hpd).
        bank_size: additional teacher vectors per batch, used as negatives only.
        learning_rate: peak learning rate (linear warm-up, then linear decay to zero). None chooses it by the kind of
            student and, for layers of a teacher, by the teacher's width (`defaults.usual_learning_rate`).
        projection_learning_rate: peak learning rate of the objective's own parameters.
        freeze_embeddings: whether the token embeddings are frozen. For layers of a teacher this is faster, and tokens
            that the training text lacks stay consistent with the others.
        warmup: fraction of the steps used for warm-up.
        weight_decay: weight decay of AdamW, applied to matrices only.
        max_length: maximum number of tokens of a training text.
        seed: random seed of initialisation, order and bank.
        dtype: "auto", "float32" or "bfloat16": the number format of the computation. Weights stay in float32.
        eval_every: steps between evaluations on the dev set. 0 evaluates at the end only.
        checkpoint_every: steps between checkpoints.
        patience: number of evaluations without improvement after which training stops. The best weights are kept. 0
            never stops early.
        output_space: "student" leaves W out of the saved model; "teacher" keeps it as a Dense module.
        projection: "trained" initialises W as the least-squares map to the teacher's vectors and trains it. "isometry"
            fixes W at the nearest map that changes no cosine, so that training starts from the student's own vectors.
            "auto" is "isometry" for a pretrained student, and "trained" for others and in the teacher's space.
        dims: Matryoshka dims: the lengths to which the student's vectors may be truncated, largest first. () trains the
            full length only.
        merge: weight of the untrained student when both sets of weights are averaged at the end. It keeps more of what
            a pretrained student knows and the training text does not show.
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
        """Check the values, and set the objective's default temperature where none is given.

        Raises:
            UserError: a value is outside its range.
        """
        # The record, and the comparison on resuming, need the number and not None.
        object.__setattr__(self, "objective_settings", with_temperature(self.objective_settings, self.objective))
        rates = ("projection_learning_rate", *(["learning_rate"] if self.learning_rate is not None else []))
        check_numbers(self, LEAST | {"bank_size": 0}, above_0=rates)
        weights = ("hsic_weight", "regression_weight")
        check_numbers(self.objective_settings, {}, above_0=("temperature",), from_0=weights)
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
        """Whether the student needs a linear layer after pooling, because W is fixed."""
        return self.objective == "hpd" or bool(self.dims)

    @property
    def pace(self) -> Pace:
        """Steps, evaluations and checkpoints."""
        texts = self.batch_size * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}


@dataclass(frozen=True)
class FinetuneSettings:
    """The recipe of stage 2: fine-tuning on pairs of query and passage.

    Attributes:
        steps: total number of optimiser steps.
        batch_size: queries per batch, each with one positive.
        accumulate: batches per optimiser step. A query's candidates come from its own batch.
        negatives: hard negatives per query and step. All passages of a batch are candidates for all its queries.
        learning_rate: peak learning rate (linear warm-up, then linear decay to zero).
        temperature: temperature tau of the contrastive loss, and of the student's scores in the soft-label loss.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of the HSIC kernels, or "median".
        hsic_estimator: estimator of HSIC, as for stage 1.
        soft_labels: source of soft labels: None, "teacher", or a cross-encoder by folder or hub name.
        soft_weight: weight of the soft-label loss.
        mining: how hard negatives are mined. None mines none.
        freeze_embeddings: whether the token embeddings are frozen.
        warmup: fraction of the steps used for warm-up.
        weight_decay: weight decay of AdamW, applied to matrices only.
        max_length: maximum number of tokens of a query or passage.
        seed: random seed of order and draws.
        dtype: number format of the computation, as for stage 1.
        dims: Matryoshka dims, as for stage 1.
        eval_every: steps between evaluations on the dev set. 0 evaluates at the end only.
        checkpoint_every: steps between checkpoints.
        patience: number of evaluations without improvement after which training stops. The best weights are kept. 0
            never stops early.
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
        """Check the values.

        Raises:
            UserError: a value is outside its range.
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
        """Steps, evaluations and checkpoints. The texts of a step are queries, positives and negatives."""
        texts = self.batch_size * (2 + self.negatives) * self.accumulate
        return Pace(self.steps, texts, self.eval_every, self.checkpoint_every, self.patience)

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"dims": list(self.dims)}
