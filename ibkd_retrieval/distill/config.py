"""`DistillConfig`: every choice of a distillation run, in sections. It is read from and written to JSON.

Each field is one parameter of `distill`. `PARAMETERS` maps the parameter to its field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from ibkd_retrieval.distill.parameters import read_value
from ibkd_retrieval.distill.sections import (
    DataConfig,
    FinetuneConfig,
    ObjectiveConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from ibkd_retrieval.encoders.loading import DEFAULT_TEACHER
from ibkd_retrieval.encoders.model_folder import STUDENT_RECORD
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import write_json
from ibkd_retrieval.json_io import parse

RECORD = STUDENT_RECORD
"""The file in a student's folder that records how it was made, with its configuration."""


@dataclass(frozen=True)
class DistillConfig:
    """A distillation run.

    A field that is open (None) gets its value from `defaults.decided`: from the preset, from the kind of student, or
    the usual one.

    Attributes:
        teacher: teacher encoders by folder or hub name. The vectors of several teachers are concatenated. An index is a
            teacher too: its vectors are learnt from, and no model.
        stage: "distill" for stage 1, "finetune" for stage 2, or "both".
        preset: "thorough" or "paper" for other defaults; None for the usual ones.
        teaching: how the teacher is loaded.
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
    teaching: TeacherConfig = field(default_factory=TeacherConfig)
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
            changed.setdefault(section, {})[own_name] = read_value(name, value, _FIELDS[name], _KINDS[name])
        top = changed.pop("", {})
        return replace(self, **top, **{name: replace(getattr(self, name), **each) for name, each in changed.items()})

    def given(self) -> dict[str, Any]:
        """The choices that are set, by parameter name."""
        every = {name: self.value(name) for name in PARAMETERS}
        return {name: value for name, value in every.items() if value is not None and value != ()}

    @property
    def vectors(self) -> str | None:
        """Where the teacher's vectors are, if there is no model of it."""
        if self.data.teacher_vectors is not None:
            return self.data.teacher_vectors
        from ibkd_retrieval.indexing.format.layout import is_index  # brings numpy, which no help page needs

        return next((each for each in self.teacher if is_index(Path(each))), None)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers: models, an index or a file of vectors."""
        return self.teacher if self.data.teacher_vectors is None else (self.data.teacher_vectors,)

    def value(self, name: str) -> Any:
        """The value of a parameter."""
        section, own_name = PARAMETERS[name]
        return getattr(getattr(self, section) if section else self, own_name)

    @property
    def needs_output_layer(self) -> bool:
        """Whether the student needs a linear layer after pooling, because W is fixed."""
        return self.objective.name == "hpd" or bool(self.student.dims)

    def distilling_record(self) -> dict[str, Any]:
        """The settings of stage 1 as plain values, as `ibkd.json` and checkpoints record them."""
        terms = ("temperature", "hsic_weight", "hsic_bandwidth", "hsic_estimator", "regression_weight")
        found = {name: self.value(name) for name in _DISTILLING}
        found |= {"dims": list(self.student.dims)} | self._memory_record()
        return found | {"objective_settings": {name: self.value(name) for name in terms}}

    def finetuning_record(self) -> dict[str, Any]:
        """The settings of stage 2, likewise."""
        own = {name: getattr(self.finetuning, name) for name in (*FINETUNE_PREFIXED, *_FINETUNING)}
        shared = {name: self.value(name) for name in _BOTH_STAGES}
        mining = {"mining": asdict(self.finetuning.mining), "dims": list(self.student.dims)}
        return own | shared | mining | self._memory_record()

    def _memory_record(self) -> dict[str, int]:
        """The memory limit, if there is one. It decides how sums are rounded."""
        return {} if self.training.memory is None else {"memory": self.training.memory}

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
            values: Any = parse(path.read_text("utf-8"))
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


_DISTILLING = (
    *("objective", "steps", "batch_size", "accumulate", "bank_size", "learning_rate", "projection_learning_rate"),
    *("freeze_embeddings", "warmup", "weight_decay", "max_length", "seed", "dtype", "eval_every", "checkpoint_every"),
    *("patience", "output_space", "projection", "dims", "merge"),
)
_BOTH_STAGES = (
    *("accumulate", "hsic_bandwidth", "hsic_estimator", "freeze_embeddings", "warmup", "weight_decay", "max_length"),
    *("seed", "dtype", "eval_every", "checkpoint_every", "patience"),
)
_FINETUNING = ("negatives", "soft_labels", "soft_weight")
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
            if each.name == "teaching":
                name = f"teacher_{name}"
            found[name] = (each.name, inner.name)
    return found


PARAMETERS = _parameters()
"""The section ("" for the top level) and the field of each parameter."""

_SECTIONS: dict[str, type[Any]] = {
    "": DistillConfig,
    "teaching": TeacherConfig,
    "student": StudentConfig,
    "objective": ObjectiveConfig,
    "training": TrainingConfig,
    "data": DataConfig,
    "finetuning": FinetuneConfig,
}
_FIELDS: dict[str, Field[Any]] = {
    name: _SECTIONS[section].__dataclass_fields__[own_name] for name, (section, own_name) in PARAMETERS.items()
}
_KINDS = {name: get_type_hints(_SECTIONS[section])[own_name] for name, (section, own_name) in PARAMETERS.items()}

USUAL: dict[str, Any] = {name: each.metadata["usual"] for name, each in _FIELDS.items() if "usual" in each.metadata}
"""The default of each parameter that has one whatever the student."""


def _named(source: Any) -> Any:
    """The name or path of a text source, for JSON."""
    if source is None or isinstance(source, str):
        return source
    if isinstance(source, os.PathLike):
        return os.path.abspath(source)
    return getattr(source, "name", None) or f"{type(source).__name__} given from Python"
