"""What a corpus says of a document beside its text: the scalar values that filters can compare."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping

from ibkd_retrieval.corpora.lines import encodable
from ibkd_retrieval.corpora.records import NO_FIELDS, FieldValue

METADATA = "metadata"
"""The key under which BEIR keeps further fields as an object."""


def field_value(value: object) -> FieldValue | None:
    """The value as a field holds it; None for what no field can hold: nulls, nested values, infinite numbers and NaN.

    A date or a time becomes its ISO 8601 text, which sorts as time does.
    """
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date):
        return value.isoformat()
    return None


def fields_of(record: Mapping[str, object], used: Collection[str | None], where: str) -> Mapping[str, FieldValue]:
    """The fields of a record: its scalar entries, and those of its `metadata` object where it has no such entry itself.

    Args:
        record: names and values as read.
        used: names that were read as id, title or text.
        where: file and line for the error.

    Raises:
        UserError: a name or a text holds half of a surrogate pair.
    """
    found: dict[str, FieldValue] = {}
    metadata = record.get(METADATA)
    if isinstance(metadata, Mapping):
        _take(found, metadata, (), where)
    _take(found, record, used, where)
    return found or NO_FIELDS


def _take(found: dict[str, FieldValue], record: Mapping[str, object], used: Collection[str | None], where: str) -> None:
    for name, value in record.items():
        if name in used:
            continue
        kept = field_value(value)
        if kept is not None:
            found[encodable(name, where)] = encodable(kept, where) if isinstance(kept, str) else kept
