"""What made a run, beside the run: ir_metadata (Breuer, Keller and Schaer, SIGIR 2022; https://www.ir-metadata.org)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ibkd_retrieval.files import atomic_write

Scalar = str | int | float | bool | None
Value = Scalar | Mapping[str, "Value"] | Sequence["Value"]

_PLAIN_KEY = re.compile(r"[A-Za-z_]+( [A-Za-z_]+)*")
_NOT_TEXT = frozenset(("null", "true", "false", "yes", "no", "on", "off"))


def metadata_path(run: Path) -> Path:
    """Where the metadata of a run file stands: `run.trec.metadata.yaml` beside `run.trec`."""
    return run.with_name(f"{run.name}.metadata.yaml")


def write_run_metadata(run: Path, metadata: Mapping[str, Value]) -> None:
    """Write the metadata of a run file beside it, as YAML, whole or not at all.

    Args:
        run: the run file.
        metadata: sections by the names of the schema (platform, implementation, method, ...).
    """
    with atomic_write(metadata_path(run)) as file:
        file.write(as_yaml(metadata).encode("utf-8"))


def as_yaml(value: Mapping[str, Value]) -> str:
    """Block YAML with every text in double quotes, which any reader takes for what it is."""
    return "".join(f"{line}\n" for line in _lines(value, ""))


def _lines(value: Mapping[str, Value] | Sequence[Value], indent: str) -> Iterator[str]:
    keyed = isinstance(value, Mapping)
    items = value.items() if isinstance(value, Mapping) else (("-", item) for item in value)
    for key, item in items:
        head = f"{indent}{_key(key)}:" if keyed else f"{indent}-"
        if isinstance(item, str | int | float | bool | None) or not item:
            yield f"{head} {_scalar(item)}"
        elif keyed:
            yield head
            yield from _lines(item, indent + "  ")
        else:
            first, *others = _lines(item, indent + "  ")
            yield f"{head} {first.strip()}"
            yield from others


def _scalar(value: Scalar | Mapping[str, Value] | Sequence[Value]) -> str:
    if isinstance(value, str):
        # JSON's escapes are YAML's too, but for its pairs of surrogates.
        inner = (f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in value)
        return f'"{"".join(inner)}"'
    if isinstance(value, float):
        # YAML 1.1 takes 1e-07 for text: a number with an exponent needs a point.
        return repr(value) if "." in repr(value) else repr(value).replace("e", ".0e")
    if isinstance(value, Mapping):
        return "{}"
    return json.dumps(value if value is None or isinstance(value, int) else [])


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _NOT_TEXT else _scalar(key)
