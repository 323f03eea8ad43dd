"""What made a run, beside the run: ir_metadata (Breuer, Keller and Schaer, SIGIR 2022; https://www.ir-metadata.org)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ibkd_retrieval.files import atomic_write

Scalar = str | int | float | bool | None
Value = Scalar | Mapping[str, "Value"] | Sequence["Value"]


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
            yield f"{head} {json.dumps(item if item is None or isinstance(item, str | int | float) else list(item))}"
        elif keyed:
            yield head
            yield from _lines(item, indent + "  ")
        else:
            first, *others = _lines(item, indent + "  ")
            yield f"{head} {first.strip()}"
            yield from others


def _key(key: str) -> str:
    plain = key.replace(" ", "").replace("_", "").replace("-", "")
    return key if plain.isalpha() and plain.isascii() else json.dumps(key)
