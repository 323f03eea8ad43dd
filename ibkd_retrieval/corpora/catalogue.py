"""What ir_datasets' bundled catalogue says, read from its files: importing the package makes folders and takes time."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

from ibkd_retrieval.errors import UserError

Entity = Literal["docs", "queries", "qrels"]


def catalogued_ids() -> frozenset[str]:
    """The ids of the bundled catalogue."""
    return frozenset(_bundled("metadata.json"))


def entry_count(dataset_id: str, entity: Entity) -> int | None:
    """How many documents, queries or judgements an ir_datasets id has; None where the catalogue does not say."""
    catalogue = _bundled("metadata.json")
    entry = catalogue.get(dataset_id, {}).get(entity, {})
    while "_ref" in entry:
        entry = catalogue.get(entry["_ref"], {}).get(entity, {})
    count = entry.get("count")
    return count if isinstance(count, int) else None


def download_places(collection: str, source: str) -> tuple[str, ...]:
    """Where ir_datasets looks for a file before it fetches it, relative to its home: its own place, and that of copies.

    Args:
        collection: the first part of an id, as in `beir`.
        source: the name of the file among the collection's downloads, as in `scifact`.
    """
    entry = _bundled("downloads.json").get(collection, {}).get(source, {})
    places = []
    if "cache_path" in entry:
        places.append(f"{collection}/{entry['cache_path']}")
    if "expected_md5" in entry:
        places.append(f"downloads/{entry['expected_md5']}")
    return tuple(places)


@functools.cache
def _bundled(name: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("ir_datasets")
    if spec is None or spec.origin is None:
        raise UserError("ir_datasets is not installed: install this project again, which requires it.")
    contents: dict[str, Any] = json.loads((Path(spec.origin).parent / "etc" / name).read_text("utf-8"))
    return contents
