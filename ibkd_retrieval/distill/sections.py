"""The sections of a `DistillConfig`: the student, the objective, training, data and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from ibkd_retrieval.encoders.loading import short_model_name
from ibkd_retrieval.errors import UserError

STATIC = "static"
"""The name of the student that is a table of one vector per token."""

T = TypeVar("T")
OPEN: Any = None
"""The value of a field until `defaults.decided` chooses one, by the kind of student or the preset."""


def usual(value: T) -> T:
    """A field that is open too. Its default is `value`, unless a preset has another."""
    made: Any = field(default=OPEN, metadata={"usual": value})
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TeacherConfig:
    """How the teacher is loaded. Its parameters begin with `teacher_`.

    Attributes:
        pooling: "mean", "cls" or "lasttoken", in place of that of its folder.
        query_prompt: the text before every query. None keeps that of its folder.
        document_prompt: the text before every document, likewise.
        device_map: "auto", "balanced" or "sequential" spreads its layers over several GPUs, with accelerate. None keeps
            it on the device of the student.
    """

    pooling: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    device_map: str | None = None


@dataclass(frozen=True)
class StudentConfig:
    """How the student is initialised.

    Attributes:
        model: a small model by folder or hub name. "static" makes a table of one vector per token from the teacher.
            None takes layers of the teacher.
        layers: number of layers of the teacher (or of `model`), evenly spaced, or their positions. For layers of the
            teacher the default is 2.
        dim: dimensions of the vectors. 0 is the model's own number. The default is 128 for layers of the teacher, and
            otherwise 0.
        dims: Matryoshka dims: the lengths to which vectors may be truncated, largest first. () trains the full length
            only.
        pooling: "mean", "cls" or "lasttoken", in place of that of the folder of `model`.
        query_prompt: the text before every query. None keeps that of `model`, or of the teacher whose layers are taken.
        document_prompt: the text before every document, likewise.
        freeze_embeddings: whether the token embeddings are frozen. The default is to freeze them for layers of the
            teacher. This is faster, and tokens that the training text lacks stay consistent with the others.
        vocabulary: "corpus" leaves the tokens that no training text has out of the token table. "whole" keeps all.
        output_space: "student" for compact vectors, without W. "teacher" for vectors that search the teacher's index:
            the saved model keeps W as a Dense module.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int = OPEN
    dims: tuple[int, ...] = ()
    pooling: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    freeze_embeddings: bool = OPEN
    vocabulary: str = "whole"
    output_space: str = "student"

    @property
    def trained_before(self) -> bool:
        """Whether the student is a pretrained model, not one made from the teacher."""
        return self.model not in (None, STATIC)

    @property
    def could_encode(self) -> bool:
        """Whether the student is a complete pretrained text encoder, whose vectors are useful before training."""
        return self.trained_before and self.pooling is None and self.layers is None

    @property
    def keeps_its_space(self) -> bool:
        """Whether a pretrained model is to keep its own vector space."""
        return self.trained_before and self.output_space == "student"

    def name(self, teacher: str, objective: str) -> str:
        """A folder name that identifies the student, such as `all-MiniLM-L6-v2-l2-d128-ibkd`."""
        parts = [
            f"{short_model_name(teacher)}-static" if self.model == STATIC else short_model_name(self.model or teacher)
        ]
        if self.layers is not None:
            parts.append("l" + "_".join(map(str, (self.layers,) if isinstance(self.layers, int) else self.layers)))
        if self.dim:
            parts.append(f"d{self.dim}")
        return "-".join([*parts, objective])


@dataclass(frozen=True)
class ObjectiveConfig:
    """The distillation loss of stage 1.

    Attributes:
        name: one of `objectives.OBJECTIVES`. The default is "kl" for a pretrained student that keeps its own vector
            space, and otherwise "ibkd". Each was the best on dev sets in short runs.
        projection: map W to the teacher's space. "trained" initialises W as the least-squares map to the teacher's
            vectors and trains it. "isometry" fixes W at the nearest map that changes no cosine, so that training starts
            from the student's own vectors. "auto" is "isometry" for a pretrained student that keeps its own vector
            space, and "trained" for others.
        temperature: temperature tau of the contrastive loss. A smaller value weights the nearest negatives more. The
            default is the objective's (`objectives.TEMPERATURES`).
        regression_weight: weight of the regression, 1 - mean cosine of W s and t, beside a contrast or `kl`. 0 leaves
            it out. The default is 5 for `ibkd` with a student made of its teacher: layers, or static
            (benchmarks/regression_term.py). Other objectives are baselines, and stay as they are published: 0.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of the Gaussian kernels, or "median" to set it from each batch; for both stages.
        hsic_estimator: "biased" (as published), "unbiased", or "cka" for the normalised estimator; for both stages.
        projection_learning_rate: peak learning rate of the objective's own parameters.
    """

    name: str = OPEN
    projection: str = usual("auto")
    temperature: float = OPEN
    regression_weight: float = OPEN
    hsic_weight: float = usual(0.2)
    hsic_bandwidth: float | str = usual("median")
    hsic_estimator: str = usual("biased")
    projection_learning_rate: float = usual(5e-3)


@dataclass(frozen=True)
class TrainingConfig:
    """The training settings of stage 1, and those that both stages share.

    Attributes:
        steps: optimiser steps.
        minutes: how long stage 1 may train. It chooses the steps by the measured time of a step. Teacher vectors and
            evaluations come on top. None trains for `steps`.
        batch_size: texts per batch.
        accumulate: batches per optimiser step (gradient accumulation), for both stages. Their losses are averaged. This
            differs from one large batch: negatives come from a text's own batch and the bank, and HSIC compares within
            a batch. It makes no difference to objectives that compare one text at a time (mse, cosine, hpd).
        bank_size: additional teacher vectors per batch, used as negatives only.
        learning_rate: peak learning rate. The default depends on the kind of student and, for layers of a teacher, on
            the teacher's width (`defaults.usual_learning_rate`).
        warmup: fraction of the steps in which the learning rate rises, for both stages. It then falls to zero.
        weight_decay: weight decay of AdamW, applied to matrices only, for both stages.
        merge: weight of the untrained student when both sets of weights are averaged at the end. It keeps more of what
            a pretrained student knows and the training text does not show. The default is 0.5 for a pretrained text
            encoder that keeps its own vector space, and otherwise 0.
            Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903; for encoders Xiao et al.
            2023, LM-Cocktail, arXiv 2311.13534.
        max_length: maximum number of tokens of a training text, for both stages.
        eval_every: steps between evaluations on the dev set, for both stages. 0 evaluates at the end only.
        patience: number of evaluations without improvement after which training stops, for both stages. The best
            weights are kept. 0 trains to the end and keeps the last weights.
        checkpoint_every: steps between checkpoints, for both stages.
        dtype: "auto", "float32" or "bfloat16": the number format of the computation. Weights stay in float32.
        memory: memory limit of a process in bytes, or text such as "2GB", for both stages. On a GPU it limits the
            GPU's memory. Batches are encoded in chunks that keep within it, with the gradients of the whole batch. None
            is 2 GB on a CPU, or more if the models need it, and no limit on a GPU.
        seed: random seed of initialisation, order, bank and draws.
    """

    steps: int = usual(500)
    minutes: float | None = None
    batch_size: int = usual(256)
    accumulate: int = usual(1)
    bank_size: int = usual(4096)
    learning_rate: float = OPEN
    warmup: float = usual(0.1)
    weight_decay: float = usual(0.01)
    merge: float = OPEN
    max_length: int = usual(96)
    eval_every: int = usual(200)
    patience: int = usual(0)
    checkpoint_every: int = usual(100)
    dtype: str = "auto"
    memory: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """The training data and the dev set.

    Attributes:
        teacher_vectors: the teacher's vectors by text, in place of a model: a file or folder of vectors, or an index.
        query_vectors: the teacher's vectors of queries, for a teacher of which there are only vectors.
        corpus: training documents, in any form that `open_corpus` accepts. None is the built-in `pydocs:train`, or the
            texts that are stored with the teacher's vectors.
        queries: training queries, in any form that `open_queries` accepts. They are used as unlabelled text.
        dev: judged queries of the dev set. None measures the overlap with the teacher's neighbours among held-out
            texts; with pydocs, None is its own queries.
        pairs: queries with their passages for fine-tuning: judged queries, or a JSONL file.
        max_documents: maximum number of training documents, drawn at random. None takes all.
        synthetic_queries: queries made of each training document, as further unlabelled text. 0 makes none.
        id_field: field of the corpus that holds the id. None tries the usual names.
        text_field: fields that hold the text; they are joined. Empty tries the usual names.
        title_field: field that holds the title. None tries the usual names.
        vector_field: column of `teacher_vectors` and `query_vectors` that holds the vectors. None takes the only one of
            lists of numbers, or tries the usual names.
    """

    teacher_vectors: str | None = None
    query_vectors: str | None = None
    corpus: Any = None
    queries: Any = None
    dev: Any = None
    pairs: Any = None
    max_documents: int | None = None
    synthetic_queries: int = usual(0)
    id_field: str | None = None
    text_field: tuple[str, ...] = ()
    title_field: str | None = None
    vector_field: str | None = None


@dataclass(frozen=True)
class MiningSettings:
    """Which of the teacher's results become hard negatives.

    Attributes:
        first: best rank taken, counted from 1. Better ranks often hold answers without a judgement.
        last: worst rank taken.
        margin: a result is left out as a likely answer if it scores above the best positive's score minus this margin.
        most: maximum number of negatives per query, evenly spaced over the remaining ranks.
    """

    first: int
    last: int
    margin: float
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
class FinetuneConfig:
    """The settings of stage 2, fine-tuning on pairs of query and passage.

    Attributes:
        steps: optimiser steps.
        batch_size: queries per batch, each with one positive. All passages of a batch are candidates for all its
            queries.
        learning_rate: peak learning rate.
        temperature: temperature tau of the contrastive loss, and of the student's scores in the soft-label loss.
        hsic_weight: lambda, the weight of the forgetting term.
        negatives: hard negatives per query and step. 0 mines none.
        negative_ranks: first and last rank in the teacher's results from which negatives are taken.
        negative_margin: a result is left out if it scores above the best positive's score minus this margin.
        soft_labels: source of soft labels: "teacher", or a cross-encoder by folder or hub name. None uses none.
        soft_weight: weight of the soft-label loss.
    """

    steps: int = usual(500)
    batch_size: int = usual(128)
    learning_rate: float = usual(2e-5)
    temperature: float = usual(0.05)
    hsic_weight: float = usual(1.0)
    negatives: int = usual(1)
    negative_ranks: tuple[int, int] = usual((10, 100))
    negative_margin: float = usual(0.05)
    soft_labels: str | None = None
    soft_weight: float = usual(1.0)

    @property
    def mining(self) -> MiningSettings:
        """How hard negatives are mined."""
        return MiningSettings(*self.negative_ranks, self.negative_margin)
