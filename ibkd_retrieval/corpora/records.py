"""Documents, queries and judgements, and the field values that filters compare."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.line_file import LineFile

FieldScalar = str | int | float | bool
FieldValue = FieldScalar | list[FieldScalar]
NO_FIELDS: Mapping[str, FieldValue] = MappingProxyType({})


class Document(NamedTuple):
    """A document. A TREC run can contain it only if `doc_id` has no space.

    `fields` holds what else the corpus says of it (a year, a source): stored and searched by filters, never encoded.
    """

    doc_id: str
    text: str
    title: str = ""
    fields: Mapping[str, FieldValue] = NO_FIELDS

    @property
    def content(self) -> str:
        """The input of an encoder: the title, a space and the text, as in BEIR."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


class Query(NamedTuple):
    """A query."""

    query_id: str
    text: str


class Judgement(NamedTuple):
    """The relevance grade of a document for a query. 0 is judged and not relevant."""

    query_id: str
    doc_id: str
    relevance: int


@dataclass(frozen=True)
class Corpus:
    """A named, re-readable stream of documents.

    Attributes:
        name: the name that `open_corpus` resolves to the same corpus.
        count: the number of documents, None where it is unknown before reading.
    """

    name: str
    count: int | None
    _open: Callable[[], Iterable[Document]]
    _estimate: Callable[[], int | None] = field(default=lambda: None, compare=False, repr=False)
    _lines: Callable[[], LineFile | None] = field(default=lambda: None, compare=False, repr=False)

    @property
    def expected(self) -> int | None:
        """The number of documents to show beside a progress bar: `count`, or an estimate where that is unknown."""
        return self._estimate() if self.count is None else self.count

    @property
    def lines(self) -> LineFile | None:
        """The file of which each line is a document. None where there is no such file."""
        return self._lines()

    def documents(self) -> Iterator[Document]:
        """Read the documents from the start in a fixed order, one at a time."""
        return iter(self._open())


@dataclass(frozen=True)
class QuerySet:
    """Queries and their judgements.

    Attributes:
        name: the name that `open_queries` resolves to the same queries.
        queries: the queries.
        judgements: the judgements. They are empty for queries without judgements.
        relevance_level: the lowest grade that counts as relevant for binary metrics.
        queries_are_documents: whether each query is a document of the corpus under its own id, as in ArguAna and
            Quora. Published figures exclude the query's own document from its results.
    """

    name: str
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...] = ()
    relevance_level: int = 1
    queries_are_documents: bool = False

    @property
    def digest(self) -> str:
        """The SHA-256 of all queries and judgements, without the name."""
        asked = json.dumps([self.queries, self.judgements], ensure_ascii=True)
        return hashlib.sha256(asked.encode("ascii")).hexdigest()


METADATA = "metadata"
"""The key of BEIR's object with further fields."""


def field_value(value: object) -> FieldValue | None:
    """Convert a value to a field value. Nulls, nested values, empty lists, infinite numbers and NaN become None.

    A date or a time becomes ISO 8601 text, which sorts by time. Of a list, the entries that become None are left out. A
    list of floats is an embedding, and becomes None.
    """
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if not isinstance(value, list | tuple) or hasattr(value, "_fields"):
        return _scalar(value)
    kept = [scalar for scalar in map(_scalar, value) if scalar is not None]
    if any(isinstance(scalar, float) for scalar in kept):
        return None
    return kept or None


def _scalar(value: object) -> FieldScalar | None:
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date):
        return value.isoformat()
    return None


def fields_of(record: Mapping[str, object], used: Collection[str | None], where: str) -> Mapping[str, FieldValue]:
    """Return the fields of a record, and those of `metadata` under other names.

    Args:
        record: the names and values as read from the source.
        used: the names of the id, title and text.
        where: the file and line for the error.

    Raises:
        UserError: a name or a text has a lone surrogate.
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
            for each in kept if isinstance(kept, list) else [kept]:
                if isinstance(each, str):
                    encodable(each, where)
            found[encodable(name, where)] = kept


def is_id(text: str) -> bool:
    """Whether a text can be an id: it has no white space but single spaces within it."""
    # Letters and digits alone are most ids.
    return text.isalnum() or ("  " not in text and text.strip() == text and len(text.replace(" ", "").split()) == 1)


def checked_id(value: object, where: str) -> str:
    """Check the id of a document or query. An integer becomes its digits.

    Args:
        value: the id as read from the source.
        where: the file and line for the error, as in `corpus.jsonl, line 3`.

    Raises:
        UserError: it is no text, is empty, or holds other white space than single spaces within it.
    """
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: the id is {value!r}; expected text or a whole number.")
    if not is_id(value):
        problem = "is empty" if not value.strip() else f"{value!r} holds white space"
        raise UserError(
            f"{where}: the id {problem}; give every line an id without line breaks, tabs and spaces at its ends."
        )
    return value


def encodable(text: str, where: str) -> str:
    """Check that a text can be encoded in UTF-8. JSON can contain a lone surrogate, which cannot.

    Args:
        text: the text as read from the source.
        where: the file and line for the error.

    Raises:
        UserError: it holds half of a surrogate pair.
    """
    if text.isascii():
        return text  # Python knows that without a look at the letters.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair (\\ud800 to \\udfff); remove it.") from None
    return text
