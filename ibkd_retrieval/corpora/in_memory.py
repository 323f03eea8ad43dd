"""Documents, queries and judgements from Python objects: records, dicts, tuples, texts or a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ibkd_retrieval.corpora.columns import AUTOMATIC, DOCUMENT, QUERY, Fields, Reading, Row
from ibkd_retrieval.corpora.qrels import grade_of
from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet, checked_id, encodable
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

PREFIX = "in-memory-"
"""The prefix of the names of corpora and queries that have no file."""

_JUDGEMENT_KEYS = (
    ("query_id", "query-id", "qid"),
    ("doc_id", "corpus-id", "corpus_id", "docid", "document_id"),
    ("relevance", "score", "rel", "label", "grade"),
)


def corpus_of(source: Iterable[Any], fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Corpus:
    """Make a corpus of the documents in `source`. An iterator is put into a list, because it can be read only once.

    Args:
        source: the documents.
        fields: the user's choice of fields in dicts and tables.
        progress: the display. It shows the fields.

    Raises:
        UserError: there is no document, or one has no id or text. The message gives its position.
    """
    kept = _readable_again(source)
    reading = Reading(DOCUMENT, "documents given", fields, progress)
    digest, count = hashlib.sha256(), 0
    for document in _documents(kept, reading):
        digest.update(json.dumps([*document[:3], dict(document.fields)], sort_keys=True).encode("ascii"))
        count += 1
    if not count:
        raise UserError("the corpus holds no documents: give at least one.")
    return Corpus(PREFIX + digest.hexdigest()[:12], count, lambda: _documents(kept, reading))


def queries_of(source: Iterable[Any], fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> QuerySet:
    """Return the queries in `source`. The arguments are those of `corpus_of`.

    Raises:
        UserError: there is no query, or one has no id or text. The message gives its position.
    """
    queries = tuple(_queries(source, Reading(QUERY, "queries given", fields, progress)))
    if not queries:
        raise UserError("there are no queries: give at least one.")
    return QuerySet(PREFIX + QuerySet("", queries).digest[:12], queries)


def judgements_of(source: Iterable[Any], qrels_threshold: float | None = None) -> Iterator[Judgement]:
    """Yield the judgements in `source`: a dict `{query: {document: grade}}`, or records, dicts or tuples of three.

    Raises:
        UserError: an item has another form. The message gives its position.
    """
    if isinstance(source, Mapping):
        for query_id, grades in source.items():
            where = f"the judgements of query {query_id!r}"
            if not isinstance(grades, Mapping):
                raise UserError(f"{where} are {type(grades).__name__}: expected a dict from document ids to grades.")
            for doc_id, grade in grades.items():
                yield _judgement(query_id, doc_id, grade, qrels_threshold, where)
        return
    for position, item in enumerate(_items(source)):
        where = f"judgement {position}"
        values: list[Any]
        if isinstance(item, Mapping):
            values = [next((item[key] for key in keys if key in item), None) for keys in _JUDGEMENT_KEYS]
        else:
            values = list(item) if isinstance(item, tuple | list) else []
        if len(values) != 3 or None in values:
            raise UserError(
                f"{where} is {_shown(item)}: expected (query id, document id, grade), or a dict with query_id, doc_id"
                " and relevance."
            )
        query_id, doc_id, grade = values
        yield _judgement(query_id, doc_id, grade, qrels_threshold, where)


def _judgement(query_id: object, doc_id: object, grade: Any, qrels_threshold: float | None, where: str) -> Judgement:
    query = encodable(query_id, where) if isinstance(query_id, str) else checked_id(query_id, where)
    if not isinstance(grade, bool | str) and hasattr(grade, "item"):  # of numpy
        grade = grade.item()
    relevance = grade_of(grade, qrels_threshold, where)
    return Judgement(query, checked_id(doc_id, where), relevance)


def _documents(source: Iterable[Any], reading: Reading) -> Iterator[Document]:
    for position, item in enumerate(_items(source)):
        where = f"document {position}"
        if isinstance(item, Document):
            checked_id(item.doc_id, where)
            yield item
        else:
            doc_id, title, text, fields = _row(item, position, reading, where)
            yield Document(doc_id, text, title, fields)


def _queries(source: Iterable[Any], reading: Reading) -> Iterator[Query]:
    for position, item in enumerate(_items(source)):
        query_id, _, text, _ = _row(item, position, reading, f"query {position}")
        yield Query(query_id, text)


def _row(item: Any, position: int, reading: Reading, where: str) -> Row:
    most = 3 if reading.kind is DOCUMENT else 2
    if isinstance(item, str):
        return reading.row_of_cells([str(position), item], where)
    if isinstance(item, tuple | list) and 2 <= len(item) <= most:
        return reading.row_of_cells(item, where)
    if not isinstance(item, Mapping):
        expected = "(id, text) or (id, title, text)" if most == 3 else "(id, text)"
        raise UserError(f"{where} is {_shown(item)}: expected a text, a dict with an id and a text, or {expected}.")
    return reading.row(item, where)


def _items(source: Any) -> Iterator[Any]:
    """Yield the items of a collection. The keys of a dict are ids. A pandas table gives a dict per row."""
    if isinstance(source, Mapping):
        for key, value in source.items():
            yield {"_id": key, **value} if isinstance(value, Mapping) else (key, value)
    elif hasattr(source, "itertuples"):
        import pandas as pd

        names = [str(column) for column in source.columns]
        for values in source.itertuples(index=False, name=None):
            row = zip(names, values, strict=True)
            # An empty cell is NaN, NaT or NA, by the type of its column. Texts and lists have lengths.
            yield {name: value for name, value in row if hasattr(value, "__len__") or not pd.isna(value)}
    else:
        yield from source


def _readable_again(source: Any) -> Any:
    if isinstance(source, bytes | bytearray) or not hasattr(source, "__iter__"):
        raise UserError(
            f"{_shown(source)} is no corpus: give a name, a path, or a list of texts, dicts or `Document` records."
        )
    return list(source) if iter(source) is source else source


def _shown(item: object) -> str:
    text = repr(item)
    return encodable(text if len(text) <= 60 else f"{text[:57]}...", type(item).__name__)
