"""The parameters of `distill`: how a value is read, and how the values of a configuration are checked."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, get_args, get_origin

from ibkd_retrieval.distill.objectives import OBJECTIVES, WITHOUT_PROJECTION
from ibkd_retrieval.distill.sections import TeacherConfig
from ibkd_retrieval.encoders.device import DTYPES
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import parse_size

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list"}


def read_value(name: str, value: Any, field: Field[Any], kind: Any) -> Any:
    """Read a parameter, which may be text as on the command line, and check that it has the type of its field.

    Args:
        name: the parameter.
        value: the value given.
        field: its field. One that is open accepts None.
        kind: the type of the field.

    Raises:
        UserError: a text cannot be parsed, or the value has another type.
    """
    value = _READERS[name](value) if name in _READERS else value
    allowed = [get_origin(each) or each for each in (get_args(kind) if isinstance(kind, types.UnionType) else (kind,))]
    if Any in allowed or (value is None and field.default is None):
        return value
    number = Integral if isinstance(value, Integral) else Real
    numeric = isinstance(value, number) and not isinstance(value, bool)
    fits = ((int in allowed and number is Integral) or float in allowed) if numeric else type(value) in allowed
    if not fits:
        words = " or ".join(_WORDS[each] for each in allowed if each in _WORDS)
        raise UserError(f"`{name}` is {value!r}: give {words}.")
    return value


def _teachers(value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str | os.PathLike) or hasattr(value, "folder") else tuple(value)
    return tuple(os.fspath(getattr(each, "folder", each)) for each in found)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _model(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _folder(value: Any) -> Any:
    return _model(getattr(value, "folder", value))


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


def _size(value: Any) -> Any:
    return value if value is None else parse_size(str(value))


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
    "teacher_vectors": _folder,
    "query_vectors": _folder,
    "student": _model,
    "soft_labels": _model,
    "layers": _layers,
    "dims": _dims,
    "memory": _size,
    "negative_ranks": _ranks,
    "hsic_bandwidth": _bandwidth,
}


TEACHING = tuple(f"teacher_{each.name}" for each in fields(TeacherConfig))
"""The parameters of how a teacher's model is loaded."""
STAGES = ("distill", "finetune", "both")
OUTPUT_SPACES = ("student", "teacher")
VOCABULARIES = ("whole", "corpus")
PROJECTIONS = ("auto", "trained", "isometry")
HSIC_ESTIMATORS = ("biased", "unbiased", "cka")
_SEEDS = 1 << 63
_LEAST = {
    "seed": 0,
    "steps": 1,
    "batch_size": 2,
    "accumulate": 1,
    "bank_size": 0,
    "dim": 0,
    "max_length": 2,
    "eval_every": 0,
    "checkpoint_every": 1,
    "patience": 0,
    "finetune_steps": 1,
    "finetune_batch_size": 2,
    "negatives": 0,
    "synthetic_queries": 0,
}
"""The smallest valid value of whole numbers."""
_ABOVE_0 = (
    "minutes",
    "projection_learning_rate",
    "learning_rate",
    "temperature",
    "finetune_learning_rate",
    "finetune_temperature",
)
_FROM_0 = ("hsic_weight", "regression_weight", "finetune_hsic_weight", "soft_weight")


def check_values(values: Mapping[str, Any]) -> None:
    """Check the values of a configuration, whatever its stage.

    Args:
        values: by parameter name. Every value is chosen, apart from the learning rate.

    Raises:
        UserError: a value is outside its range, or two contradict each other.
    """
    _check_numbers(values)
    _check_names(values)
    if values["patience"] and not values["eval_every"]:
        raise UserError("`patience` needs periodic evaluation on the dev set: give `eval_every` too.")
    if values["hsic_estimator"] == "unbiased" and values["batch_size"] < 4:
        raise UserError(f"`batch_size` is {values['batch_size']}: the unbiased HSIC needs at least 4.")
    if values["output_space"] == "teacher" and values["objective"] in WITHOUT_PROJECTION:
        raise UserError(
            f"The objective {values['objective']} has no projection to the teacher's space: leave `output_space` out."
        )
    own = [f"`{name}`" for name in TEACHING if values[name] is not None]
    if own and len(values["teacher"]) != 1:
        raise UserError(f"{', '.join(own)} can be for one model only: name one `teacher`, or leave it out.")
    if values["teacher_device_map"] and values["student"] in (None, "static"):
        raise UserError("`teacher_device_map` spreads the layers of the teacher: name a small model as `student`.")
    dims: tuple[int, ...] = values["dims"]
    if any(dim < 1 for dim in dims) or any(b >= a for a, b in pairwise(dims)):
        shown = ",".join(map(str, dims))
        raise UserError(f"`dims` {shown}: give different lengths, the largest first, such as 128,64,32.")
    if dims and values["output_space"] == "teacher":
        raise UserError("A student in the teacher's space has one length: leave out `dims` or `output_space`.")
    if values["soft_labels"] not in (None, "teacher") and not values["negatives"]:
        raise UserError(
            "A cross-encoder's soft labels grade a query's own candidates, and with `negatives=0` there is only "
            "one: give `negatives=1` or more."
        )


def _check_numbers(values: Mapping[str, Any]) -> None:
    def refuse(name: str, wanted: str) -> UserError:
        return UserError(f"`{name}` is {values[name]}: give {wanted}.")

    for name, least in _LEAST.items():
        if values[name] is not None and values[name] < least:
            raise refuse(name, f"at least {least}")
    if not values["seed"] < _SEEDS:
        raise refuse("seed", f"a number below {_SEEDS}")
    for name in _ABOVE_0:
        if values[name] is not None and not 0 < values[name] < math.inf:
            raise refuse(name, "a number above 0")
    for name in _FROM_0:
        if not 0 <= values[name] < math.inf:
            raise refuse(name, "a number from 0 up")
    if not 0 <= values["warmup"] <= 1:
        raise refuse("warmup", "a share of the steps, from 0 to 1")
    if not 0 <= values["merge"] < 1:
        raise refuse("merge", "a share of the weights, from 0 up and below 1")
    bandwidth = values["hsic_bandwidth"]
    if bandwidth != "median" and (isinstance(bandwidth, str) or not 0 < bandwidth < math.inf):
        raise refuse("hsic_bandwidth", "median or a number above 0")


def _check_names(values: Mapping[str, Any]) -> None:
    if values["objective"] not in OBJECTIVES:
        raise UserError(f"Unknown objective `{values['objective']}`: use one of {', '.join(OBJECTIVES)}.")
    if values["dtype"] not in DTYPES:
        raise UserError(f"Unknown dtype `{values['dtype']}`: use one of {', '.join(DTYPES)}.")
    if values["hsic_estimator"] not in HSIC_ESTIMATORS:
        raise UserError(
            f"Unknown `hsic_estimator` {values['hsic_estimator']!r}: use one of {', '.join(HSIC_ESTIMATORS)}."
        )
    if values["output_space"] not in OUTPUT_SPACES:
        raise UserError(f"Unknown output space `{values['output_space']}`: use one of {', '.join(OUTPUT_SPACES)}.")
    if values["vocabulary"] not in VOCABULARIES:
        raise UserError(f"Unknown `vocabulary` {values['vocabulary']!r}: use one of {', '.join(VOCABULARIES)}.")
    if values["projection"] not in PROJECTIONS:
        raise UserError(f"Unknown `projection` {values['projection']!r}: use one of {', '.join(PROJECTIONS)}.")
