"""`DistillConfig`: every choice of a distillation run, in sections. It is read from and written to JSON.

None leaves a choice to `defaults`, which looks at the kind of student and the preset.
Each field is one parameter of `distill`. `PARAMETERS` maps the parameter to its field.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ibkd_retrieval.encoders.loading import DEFAULT_TEACHER
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import write_json

RECORD = "ibkd.json"
"""The file in a student's folder that records how it was made, with its configuration."""


@dataclass(frozen=True)
class StudentConfig:
    """The student.

    Attributes:
        model: a small model by folder or hub name. "static" makes a table of one vector per token from the teacher.
            None takes layers of the teacher.
        layers: number of layers of the teacher (or of `model`), evenly spaced, or their positions. None is 2 for layers
            of the teacher.
        dim: dimensions of the vectors. 0 is the model's own number. None is 128 for layers of the teacher, and
            otherwise the model's own number.
        dims: Matryoshka dims: the lengths to which vectors may be truncated, largest first.
        pooling: "mean" or "cls", for a plain transformers model.
        freeze_embeddings: whether the token embeddings are frozen. None freezes them for layers of the teacher.
        output_space: "student" for compact vectors, "teacher" for vectors that search the teacher's index.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int | None = None
    dims: tuple[int, ...] = ()
    pooling: str | None = None
    freeze_embeddings: bool | None = None
    output_space: str = "student"


@dataclass(frozen=True)
class ObjectiveConfig:
    """The distillation loss of stage 1.

    Attributes:
        name: one of `objectives.table.OBJECTIVES`.
        projection: map to the teacher's space: "trained", "isometry" or "auto".
        temperature: temperature tau of the contrastive loss.
        regression_weight: weight of the regression, 1 - mean cosine of W s and t, beside the contrast or `kl`.
        hsic_weight: lambda, the weight of the forgetting term.
        hsic_bandwidth: gamma of the HSIC kernels, or "median"; for both stages.
        hsic_estimator: "biased", "unbiased" or "cka"; for both stages.
    """

    name: str | None = None
    projection: str | None = None
    temperature: float | None = None
    regression_weight: float | None = None
    hsic_weight: float | None = None
    hsic_bandwidth: float | str | None = None
    hsic_estimator: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """The training settings of stage 1, and those that both stages share.

    Attributes:
        steps: optimiser steps.
        batch_size: texts per batch.
        accumulate: batches per optimiser step (gradient accumulation), for both stages.
        bank_size: additional teacher vectors per batch, used as negatives.
        learning_rate: peak learning rate.
        merge: weight of the untrained student when both sets of weights are averaged at the end.
        max_length: maximum number of tokens of a training text, for both stages.
        eval_every: steps between evaluations on the dev set. 0 evaluates at the end only.
        patience: number of evaluations without improvement after which training stops. The best weights are kept. 0
            never stops early.
        checkpoint_every: steps between checkpoints.
        dtype: "auto", "float32" or "bfloat16".
        seed: random seed.
    """

    steps: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    bank_size: int | None = None
    learning_rate: float | None = None
    merge: float | None = None
    max_length: int | None = None
    eval_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    dtype: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """The training data and the dev set.

    Attributes:
        corpus: training documents, in any form that `open_corpus` accepts. None is the built-in `pydocs:train`.
        queries: training queries, in any form that `open_queries` accepts. They are used as unlabelled text.
        dev: judged queries of the dev set. None measures the overlap with the teacher's neighbours among held-out
            texts; with pydocs, None is its own queries.
        pairs: queries with their passages for fine-tuning: judged queries, or a JSONL file.
        max_documents: maximum number of training documents, drawn at random. None takes all.
        synthetic_queries: queries made of each training document, as further unlabelled text. None and 0 make none.
        id_field: field of the corpus that holds the id. None tries the usual names.
        text_field: fields that hold the text; they are joined. Empty tries the usual names.
        title_field: field that holds the title. None tries the usual names.
    """

    corpus: Any = None
    queries: Any = None
    dev: Any = None
    pairs: Any = None
    max_documents: int | None = None
    synthetic_queries: int | None = None
    id_field: str | None = None
    text_field: tuple[str, ...] = ()
    title_field: str | None = None


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of stage 2, fine-tuning on pairs.

    Attributes:
        steps: optimiser steps.
        batch_size: queries per batch, each with one passage.
        learning_rate: peak learning rate.
        temperature: temperature tau of the contrastive loss.
        hsic_weight: lambda, the weight of the forgetting term.
        negatives: hard negatives per query and step. 0 mines none.
        negative_ranks: first and last rank in the teacher's results from which negatives are taken.
        negative_margin: a result is left out if it scores above the best positive's score minus this margin.
        soft_labels: source of soft labels: "teacher", or the name of a cross-encoder.
        soft_weight: weight of the soft-label loss.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float | None = None
    hsic_weight: float | None = None
    negatives: int | None = None
    negative_ranks: tuple[int, int] | None = None
    negative_margin: float | None = None
    soft_labels: str | None = None
    soft_weight: float | None = None


@dataclass(frozen=True)
class DistillConfig:
    """A distillation run.

    Attributes:
        teacher: teacher encoders by folder or hub name. The vectors of several teachers are concatenated.
        stage: "distill" for stage 1, "finetune" for stage 2, or "both".
        preset: "thorough" or "paper" for other defaults; None for the usual ones.
        student: how the student is initialised.
        objective: the loss of stage 1.
        training: steps, batches and evaluations.
        data: training data and dev set.
        finetuning: settings of stage 2.

    Example:
        >>> config = DistillConfig().with_parameters(layers=3, dim=384, finetune_steps=100)
        >>> config.student.layers, config.finetuning.steps
        (3, 100)
        >>> DistillConfig.from_json(config.to_json()) == config
        True
    """

    teacher: tuple[str, ...] = (DEFAULT_TEACHER,)
    stage: str = "distill"
    preset: str | None = None
    student: StudentConfig = field(default_factory=StudentConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    finetuning: FinetuneConfig = field(default_factory=FinetuneConfig)

    def with_parameters(self, **parameters: Any) -> DistillConfig:
        """A copy with some parameters changed, each by its name as a parameter of `distill`.

        Args:
            parameters: such as `layers=3` or `finetune_steps=100`. Lists may be text as on the command line: "0,3,5".

        Raises:
            TypeError: there is no such parameter.
            UserError: a text cannot be parsed, or a value has the wrong type.
        """
        changed: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            if name not in PARAMETERS:
                raise TypeError(f"distill() has no parameter {name!r}: use one of {', '.join(PARAMETERS)}")
            section, own_name = PARAMETERS[name]
            value = _READERS.get(name, _as_it_is)(value)
            _check_kind(name, value)
            changed.setdefault(section, {})[own_name] = value
        top = changed.pop("", {})
        return replace(self, **top, **{name: replace(getattr(self, name), **each) for name, each in changed.items()})

    def given(self) -> dict[str, Any]:
        """The choices that are set, by parameter name."""
        every = {
            name: getattr(getattr(self, section) if section else self, own_name)
            for name, (section, own_name) in PARAMETERS.items()
        }
        return {name: value for name, value in every.items() if value is not None and value != ()}

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values. Data given from Python is recorded by its name or its type."""
        sources = ("corpus", "queries", "dev", "pairs")
        unnamed: dict[str, Any] = dict.fromkeys(sources)
        found: dict[str, Any] = asdict(replace(self, data=replace(self.data, **unnamed)))
        found["data"] |= {name: _named(getattr(self.data, name)) for name in sources}
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DistillConfig:
        """Convert the output of `to_json` back.

        Raises:
            UserError: a name is unknown, or a value is invalid.
        """
        changed: dict[str, Any] = {}
        where = {place: name for name, place in PARAMETERS.items()}
        for section, value in values.items():
            inner = value.items() if isinstance(value, Mapping) else [(section, value)]
            for own_name, each in inner:
                place = (section if isinstance(value, Mapping) else "", own_name)
                if place not in where:
                    raise UserError(f"The configuration names {'.'.join(filter(None, place))}, which is no setting.")
                changed[where[place]] = each
        return cls().with_parameters(**changed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration to a JSON file."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistillConfig:
        """Read a saved configuration, or that of a finished student: its folder, or the `ibkd.json` in it.

        Raises:
            UserError: the file does not exist or is damaged.
        """
        path = Path(path)
        path = path / RECORD if path.is_dir() else path
        try:
            values: Any = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UserError(f"The configuration {path} cannot be read ({error.strerror}): check the path.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"The configuration {path} is not JSON: write one with DistillConfig.save.") from error
        if isinstance(values, dict) and "version" in values and "student" in values and "origin" in values:
            if "config" not in values:
                raise UserError(f"{path} was written before students recorded their configuration: give the options.")
            values = values["config"]
            _complete(values)
        if not isinstance(values, dict):
            raise UserError(f"The configuration {path} is no JSON object: write one with DistillConfig.save.")
        return cls.from_json(values)


def _complete(values: Any) -> None:
    """Spell out the regression weight in the record of a student made before there was one: it is 0, not the default.

    The record of a fine-tuned student says nothing of stage 1.
    """
    objective = values.get("objective") if isinstance(values, dict) else None
    if isinstance(objective, dict) and objective.get("name") is not None:
        objective.setdefault("regression_weight", 0.0)


FINETUNE_PREFIXED = ("steps", "batch_size", "learning_rate", "temperature", "hsic_weight")
"""Fields of `FinetuneConfig` that stage 1 has too. Their parameters begin with `finetune_`."""


def _parameters() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for each in fields(DistillConfig):
        section: Any = each.default_factory
        if not is_dataclass(section):
            found[each.name] = ("", each.name)
            continue
        for inner in fields(section):
            name = {"model": "student", "name": "objective"}.get(inner.name, inner.name)
            if each.name == "finetuning" and name in FINETUNE_PREFIXED:
                name = f"finetune_{name}"
            found[name] = (each.name, inner.name)
    return found


PARAMETERS = _parameters()
"""The section ("" for the top level) and the field of each parameter."""


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list"}


def _check_kind(name: str, value: Any) -> None:
    """Check that a value has the type of its field.

    Raises:
        UserError: it has another type.
    """
    section, own_name = PARAMETERS[name]
    owner = _OWNERS[section]
    kind = get_type_hints(owner)[own_name]
    allowed = [get_origin(each) or each for each in (get_args(kind) if isinstance(kind, types.UnionType) else (kind,))]
    if Any in allowed or (value is None and types.NoneType in allowed):
        return
    number = Integral if isinstance(value, Integral) else Real
    numeric = isinstance(value, number) and not isinstance(value, bool)
    fits = ((int in allowed and number is Integral) or float in allowed) if numeric else type(value) in allowed
    if not fits:
        words = " or ".join(_WORDS[each] for each in allowed if each in _WORDS)
        raise UserError(f"`{name}` is {value!r}: give {words}.")


_OWNERS: dict[str, type[Any]] = {
    "": DistillConfig,
    "student": StudentConfig,
    "objective": ObjectiveConfig,
    "training": TrainingConfig,
    "data": DataConfig,
    "finetuning": FinetuneConfig,
}


def _as_it_is(value: Any) -> Any:
    return value


def _named(source: Any) -> Any:
    """The name or path of a text source, for JSON."""
    if source is None or isinstance(source, str):
        return source
    if isinstance(source, os.PathLike):
        return os.path.abspath(source)
    return getattr(source, "name", None) or f"{type(source).__name__} given from Python"


def _teachers(value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str | os.PathLike) else tuple(value)
    return tuple(os.fspath(each) for each in found)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _model(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _layers(value: Any) -> Any:
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list | tuple) else value
    try:
        return tuple(int(part) for part in value.split(",")) if "," in value else int(value)
    except ValueError as error:
        raise UserError(f"`layers` {value}: give a number, or positions such as 0,3,5.") from error


def _dims(value: Any) -> tuple[int, ...]:
    if not isinstance(value, str):
        return tuple(value or ())
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise UserError(f"`dims` {value}: give numbers with commas between, such as 128,64,32.") from error


def _ranks(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        first, last = value.split("-") if isinstance(value, str) else value
        return int(first), int(last)
    except (ValueError, TypeError) as error:
        raise UserError(f"`negative_ranks` {value}: give a range of ranks such as 10-100.") from error


def _bandwidth(value: Any) -> Any:
    if not isinstance(value, str) or value == "median":
        return value
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise UserError(f"`hsic_bandwidth` {value}: give median or a number above 0.")
    return number


_READERS: dict[str, Callable[[Any], Any]] = {
    "text_field": _names,
    "teacher": _teachers,
    "student": _model,
    "soft_labels": _model,
    "layers": _layers,
    "dims": _dims,
    "negative_ranks": _ranks,
    "hsic_bandwidth": _bandwidth,
}
