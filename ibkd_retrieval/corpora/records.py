"""Documents, queries and judgements, and the field values that filters compare."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ibkd_retrieval.corpora.lines import encodable

FieldValue = str | int | float | bool
NO_FIELDS: Mapping[str, FieldValue] = MappingProxyType({})


class Document(NamedTuple):
    """One retrievable unit. `doc_id` has no white space, so that it can stand in a TREC run.

    `fields` holds what else the corpus says of it (a year, a source): stored and searched by filters, never encoded.
    """

    doc_id: str
    text: str
    title: str = ""
    fields: Mapping[str, FieldValue] = NO_FIELDS

    @property
    def content(self) -> str:
        """What an encoder reads: the title, a space and the text, as BEIR does."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


class Query(NamedTuple):
    """One information need."""

    query_id: str
    text: str


class Judgement(NamedTuple):
    """How relevant a document is to a query: 0 is judged and not relevant."""

    query_id: str
    doc_id: str
    relevance: int


@dataclass(frozen=True)
class Corpus:
    """A named, re-readable stream of documents.

    Attributes:
        name: what the user named it by, resolvable again by `open_corpus`.
        count: number of documents, None where only reading tells.
    """

    name: str
    count: int | None
    _open: Callable[[], Iterable[Document]]

    def documents(self) -> Iterator[Document]:
        """Read the documents from the start, in a fixed order, never holding them all."""
        return iter(self._open())


@dataclass(frozen=True)
class QuerySet:
    """Queries, with the judgements that belong to them where there are any.

    Attributes:
        name: what the user named it by, resolvable again by `open_queries`.
        relevance_level: lowest grade that counts as relevant for binary metrics.
        queries_are_documents: whether each query is a document of the corpus under its own id, as in ArguAna and
            Quora. Published figures leave a query's own document out of its results.
    """

    name: str
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...] = ()
    relevance_level: int = 1
    queries_are_documents: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of all queries and judgements, whatever the set is called."""
        asked = json.dumps([self.queries, self.judgements], ensure_ascii=True)
        return hashlib.sha256(asked.encode("ascii")).hexdigest()


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
