"""Frozen dataclasses to JSON, and from it with every value's type checked."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

T = TypeVar("T")

KEY = "key"
"""In a field's `metadata`: what the field is called in JSON, where that is no name in Python."""


def parse(data: bytes | str) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        ValueError: it is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


_EXACT = 2.0**63
"""Whole numbers from here on are floats for orjson."""


def parse_fast(line: str) -> Any:
    """Parse JSON as `json.loads` does, with the same values and errors, in a fraction of its time.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)  # Half of a surrogate pair, NaN and infinity, which orjson refuses, or the error.
    return json.loads(line) if _is_rounded(value) else value


def _is_rounded(value: Any) -> bool:
    if type(value) is dict or type(value) is list:
        for each in value.values() if type(value) is dict else value:
            if type(each) is not str and _is_rounded(each):
                return True
        return False
    return type(value) is float and not -_EXACT < value < _EXACT


def encode(value: Any) -> Any:
    """Turn a dataclass, with dataclasses, dicts and tuples in it, into JSON types; `decode` turns it back."""
    if dataclasses.is_dataclass(value):
        return {_key(field): encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: Any, where: str = "") -> T:
    """Turn parsed JSON into a `kind`: a dataclass, dict, tuple, int, float, str, bool or a union of these with None.

    All entries of a tuple are of one type. Keys that the dataclass does not know are ignored; those it has no default
    for must be there.

    Raises:
        ValueError: a value is missing or of another type; the text names it, as in "shards[3].documents".
    """
    result: T = _decode(kind, value, where)
    return result


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        parts = [part for part in typing.get_args(kind) if part is not types.NoneType]
        return _decode(next((part for part in parts if type(value) is part), parts[0]), value, where)
    if origin is tuple:
        inner, *others = typing.get_args(kind)
        items = _of(list, value, where)
        if others != [...] and len(items) != 1 + len(others):
            raise ValueError(f"{where} has {len(items)} entries, not {1 + len(others)}")
        return tuple(_decode(inner, item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        inner = typing.get_args(kind)[1]
        return {key: _decode(inner, item, f"{where}[{key!r}]") for key, item in _of(dict, value, where).items()}
    if kind is float and type(value) is int:
        return float(value)
    return _of(kind, value, where)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        key = _key(field)
        name = f"{where}.{key}" if where else key
        if key in _of(dict, value, where):
            fields[field.name] = _decode(hints[field.name], value[key], name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**fields)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields. Working them out takes far longer than a record, of which there are many."""
    return typing.get_type_hints(kind)


def _key(field: dataclasses.Field[Any]) -> str:
    key: str = field.metadata.get(KEY, field.name)
    return key


def _of(kind: Any, value: Any, where: str) -> Any:
    # type() and not isinstance(): JSON's true must not pass for the integer 1.
    if type(value) is not kind:
        raise ValueError(f"{where or 'the top level'} is not of type {kind.__name__}")
    return value
