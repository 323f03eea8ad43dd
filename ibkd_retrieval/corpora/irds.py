"""Data sets of ir_datasets, which are fetched at first use."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ibkd_retrieval.corpora.catalog.registry import queries_are_documents, relevance_level_of
from ibkd_retrieval.corpora.records import (
    NO_FIELDS,
    Corpus,
    Document,
    FieldValue,
    Judgement,
    Query,
    QuerySet,
    checked_id,
    field_value,
)
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

_PRIVATE_USE = 0xE000  # the private use area of Unicode
# The id, the texts, and the raw form of a document.
_NO_FIELD = frozenset(
    {"doc_id", "title", "text", "body", "html", "http_headers", "marked_up_doc", "marked_up_text", "source_xml"}
)


def dataset_ids() -> list[str]:
    """Return every id of ir_datasets, sorted."""
    return sorted(str(name) for name in _ir_datasets(SILENT).registry)


def has_dataset(dataset_id: str) -> bool:
    """Whether ir_datasets has the id. Nothing is fetched."""
    return _load(dataset_id, SILENT) is not None


def has_judgements(dataset_id: str) -> bool:
    """Whether the id has queries and judgements. Nothing is fetched."""
    dataset = _load(dataset_id, SILENT)
    return dataset is not None and bool(dataset.has_queries()) and bool(dataset.has_qrels())


def open_irds_corpus(dataset_id: str, name: str, progress: Progress = SILENT) -> Corpus:
    """Open the documents of an ir_datasets id. They are fetched when they are first read.

    Raises:
        UserError: the id is unknown or has no documents; while reading, that they cannot be fetched.
    """
    dataset = _known(dataset_id, progress)
    if not dataset.has_docs():
        raise UserError(f"ir_datasets has no documents for {dataset_id}: name the id of a collection.")

    def documents() -> Iterator[Document]:
        progress.say(f"{dataset_id} is read through ir_datasets, which fetches it on first use into {home()}")
        _ir_datasets(progress)
        with _fetching(dataset_id, "corpus"):
            for doc in dataset.docs_iter():
                yield _document(doc, dataset_id)

    count = dataset.docs_count() if dataset.docs_metadata() else None
    return Corpus(name, count, documents)


def read_irds_queries(dataset_id: str, name: str, judged_only: bool) -> QuerySet:
    """Read the queries of an ir_datasets id, and its judgements where it has any.

    Raises:
        UserError: the id is unknown, has no queries, or no judgements where they are needed; or they cannot be fetched.
    """
    dataset = _known(dataset_id, SILENT)
    if not dataset.has_queries():
        raise UserError(
            f"ir_datasets has no queries for {dataset_id}: name one of its splits, or a file, as `queries`."
        )
    if judged_only and not dataset.has_qrels():
        raise UserError(
            f"ir_datasets has no judgements for {dataset_id}: name one of its splits, or a file, as `qrels`."
        )
    with _fetching(dataset_id, "queries"):
        queries = tuple(Query(checked_id(q.query_id, dataset_id), q.default_text()) for q in dataset.queries_iter())
        judgements: tuple[Judgement, ...] = ()
        if dataset.has_qrels():
            judgements = tuple(Judgement(j.query_id, j.doc_id, int(j.relevance)) for j in dataset.qrels_iter())
    if judged_only:
        judged = {judgement.query_id for judgement in judgements}
        queries = tuple(query for query in queries if query.query_id in judged)
    return QuerySet(name, queries, judgements, relevance_level_of(dataset_id), queries_are_documents(dataset_id))


def home() -> Path:
    """Return the folder of ir_datasets for its downloads."""
    return Path(os.environ.get("IR_DATASETS_HOME") or Path.home() / ".ir_datasets")


def _document(doc: Any, dataset_id: str) -> Document:
    doc_id = checked_id(doc.doc_id, f"{dataset_id} in ir_datasets")
    fields = _fields(doc)
    title = getattr(doc, "title", None) or ""
    for field in ("text", "body"):
        text = getattr(doc, field, None)
        if isinstance(text, str):
            return Document(doc_id, text, title if isinstance(title, str) else "", fields)
    if not hasattr(doc, "default_text"):
        raise UserError(
            f"the documents of {dataset_id} are records that ir_datasets knows no text of: export them to JSON lines"
            " with a text of your choice, and give that file as `corpus`."
        )
    return Document(doc_id, doc.default_text(), fields=fields)  # the text includes the title


def _fields(doc: Any) -> Mapping[str, FieldValue]:
    names = _field_names(doc.__class__)
    if not names:
        return NO_FIELDS
    values = ((name, field_value(getattr(doc, name))) for name in names)
    return {name: value for name, value in values if value is not None} or NO_FIELDS


@functools.cache
def _field_names(record: Any) -> tuple[str, ...]:
    """The attributes of a class of documents that are neither id nor text nor the page that the text was taken from.

    Which ones form the text is seen by giving each a mark of its own and looking for the marks in the text.
    """
    marks = {name: _Mark(chr(_PRIVATE_USE + place)) for place, name in enumerate(record._fields)}
    text = record(**marks).default_text() if hasattr(record, "default_text") else ""
    return tuple(name for name, mark in marks.items() if mark not in text and name not in _NO_FIELD)


class _Mark(str):
    """A text that passes for a list of sections, of which each is the text itself."""

    __slots__ = ()

    def __iter__(self) -> Iterator[_Mark]:
        yield self

    def __getattr__(self, name: str) -> _Mark:
        return self

    def __call__(self, *args: object) -> _Mark:
        return self


def _known(dataset_id: str, progress: Progress) -> Any:
    dataset = _load(dataset_id, progress)
    if dataset is None:
        raise UserError(f"{dataset_id} is not an ir_datasets id: see https://ir-datasets.com for those there are.")
    return dataset


def _load(dataset_id: str, progress: Progress) -> Any | None:
    try:
        return _ir_datasets(progress).load(dataset_id)
    except KeyError:
        return None


def _ir_datasets(progress: Progress) -> Any:
    try:
        import ir_datasets
    except OSError as error:  # the import makes folders
        raise UserError(
            f"ir_datasets cannot keep its files in {home()} ({error.strerror or error}): set IR_DATASETS_HOME to a"
            " folder that can be written."
        ) from None
    _silence(ir_datasets, progress)
    return ir_datasets


def _silence(ir_datasets: Any, progress: Progress) -> None:
    """Hide the progress bars and log lines of ir_datasets. Both use tqdm.

    Terms of use are the exception: they are passed on.
    """
    import tqdm

    class Quiet(tqdm.tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        @classmethod
        def write(cls, s: str, *args: Any, **kwargs: Any) -> None:
            if "agree" in s:
                progress.say(s.removeprefix("[INFO] "))

    ir_datasets.lazy_libs.tqdm = lambda: SimpleNamespace(tqdm=Quiet)


@contextmanager
def _fetching(dataset_id: str, parameter: str) -> Iterator[None]:
    """Turn an error of fetching or unpacking into one message with an alternative."""
    import tarfile
    import zipfile

    local = "a BEIR folder or collection.tsv" if parameter == "corpus" else "a BEIR folder or queries.tsv with `qrels`"
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 120 else f"{reason[:117]}..."
        raise UserError(
            f"{dataset_id} could not be fetched into {home()} ({type(error).__name__}: {reason}): check the network and"
            f" the disk, copy a filled ir_datasets folder there or name it in IR_DATASETS_HOME, or give a local copy"
            f" as `{parameter}` ({local})."
        ) from error
