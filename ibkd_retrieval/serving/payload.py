"""The responses of the JSON API: their types, which the OpenAPI page shows, and their construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ibkd_retrieval.corpora.records import FieldValue
from ibkd_retrieval.search.hits import hit_as_json, moves, overlap, snippet
from ibkd_retrieval.serving.answering import Answer, Question, ServedIndex
from ibkd_retrieval.serving.limits import Limits

PASSAGE = 320
"""Most characters of a passage."""


@dataclass
class Passage:
    """The window of a document that shares most words with the query, on one line.

    Attributes:
        matches: start and end of the words they share, in characters of the text.
    """

    text: str
    matches: list[tuple[int, int]]


@dataclass
class ShownHit:
    """A document found.

    Attributes:
        rank: counts from 1.
        moved: number of ranks that it is higher than in the first index, negative if lower. null if the first index
            does not show it, and in the first index itself.
        fields: other fields of the document. Left out if there are none.
        passage: left out unless asked for.
    """

    rank: int
    score: float
    id: str
    title: str
    text: str
    moved: int | None
    fields: dict[str, FieldValue] | None = None
    passage: Passage | None = None


@dataclass
class Overlap:
    """Agreement of an index with the first one.

    Attributes:
        depth: number of first results compared.
        share: share of documents that both have among them.
    """

    depth: int
    share: float


@dataclass
class IndexAnswer:
    """The answer of one index.

    Attributes:
        milliseconds: time to encode and to search the batch that the query was in.
        encoding_milliseconds: time to encode the batch. null if it was not measured apart.
        batch: number of queries in that batch.
        overlap: overlap with the first index. null for the first index itself.
    """

    index: str
    milliseconds: float
    encoding_milliseconds: float | None
    batch: int
    overlap: Overlap | None
    hits: list[ShownHit]


@dataclass
class SearchAnswer:
    """The answer of each index, in the order in which they were named."""

    query: str
    k: int
    indexes: list[IndexAnswer]


@dataclass
class IndexHealth:
    """An index that is served."""

    index: str
    documents: int
    encoder: str
    dimensions: int
    type: str


@dataclass
class Health:
    """Whether queries are answered, by which indexes, and within which limits.

    Attributes:
        status: `ok`, `stopping`, or `failing` if the last search failed.
        models: names of the encoders behind `/v1/embeddings`.
        fault: why the last search failed. null if it did not.
    """

    status: str
    indexes: list[IndexHealth]
    models: list[str]
    longest_query: int
    largest_k: int
    fault: str | None = None


@dataclass
class Problem:
    """What was wrong, in one sentence."""

    error: str


@dataclass
class Fault:
    """What was wrong, in one sentence, for clients of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: int


@dataclass
class Failure:
    """The form of errors under `/v1/`."""

    error: Fault


def search_answer(
    indexes: Sequence[ServedIndex], question: Question, answers: Sequence[Answer], passages: bool = False
) -> dict[str, Any]:
    """A `SearchAnswer` as JSON types, made directly because it is made for every query."""
    shown = [
        _index_answer(index, question, answer, None if place == 0 else answers[0], passages)
        for place, (index, answer) in enumerate(zip(indexes, answers, strict=True))
    ]
    return {"query": question.text, "k": question.k, "indexes": shown}


def health(
    indexes: Sequence[ServedIndex], models: Sequence[str], limits: Limits, alive: bool, fault: str | None = None
) -> dict[str, Any]:
    """A `Health` as JSON types."""
    described = [
        {
            "index": index.name,
            "documents": index.documents,
            "encoder": index.encoder,
            "dimensions": index.dims,
            "type": index.family,
        }
        for index in indexes
    ]
    return {
        "status": "stopping" if not alive else "ok" if fault is None else "failing",
        "indexes": described,
        "models": list(models),
        "longest_query": limits.query,
        "largest_k": limits.k,
        "fault": fault,
    }


def _index_answer(
    index: ServedIndex, question: Question, answer: Answer, first: Answer | None, passages: bool
) -> dict[str, Any]:
    shared: dict[str, Any] | None = None
    moved: list[int | None] = [None] * len(answer.hits)
    if first is not None:
        depth, share = overlap(first.hits, answer.hits)
        shared, moved = {"depth": depth, "share": round(share, 4)}, moves(first.hits, answer.hits)
    hits = [hit_as_json(hit) | {"moved": steps} for hit, steps in zip(answer.hits, moved, strict=True)]
    if passages:
        for hit, shown in zip(answer.hits, hits, strict=True):
            if (document := hit.document) is not None:
                text, matches = snippet(document, question.text, PASSAGE)
                shown["passage"] = {"text": text, "matches": matches}
    return {
        "index": index.name,
        "milliseconds": round(answer.milliseconds, 3),
        "encoding_milliseconds": None if answer.encoding_ms is None else round(answer.encoding_ms, 3),
        "batch": answer.batch,
        "overlap": shared,
        "hits": hits,
    }
