"""What flows out of a corpus: documents, queries and judgements."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

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
    """

    name: str
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...] = ()
    relevance_level: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 of all queries and judgements, whatever the set is called."""
        asked = json.dumps([self.queries, self.judgements], ensure_ascii=True)
        return hashlib.sha256(asked.encode("ascii")).hexdigest()
