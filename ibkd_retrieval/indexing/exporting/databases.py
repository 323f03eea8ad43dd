"""Loads an index into a vector database, resumably, and checks what the database answers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError, WorkFailed, reason_of, require
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.contents import IndexContents, Rows, open_contents
from ibkd_retrieval.indexing.exporting.rows import half_a_pair
from ibkd_retrieval.indexing.format.layout import MANIFEST
from ibkd_retrieval.indexing.vectors import sample_rows
from ibkd_retrieval.indexing.vectors.exact import scan
from ibkd_retrieval.progress import SILENT, Progress, Task

DATABASES = {
    "lancedb": ("lance:Lance", "lancedb"),
    "pgvector": ("postgres:Postgres", "psycopg", "pgvector"),
    "qdrant": ("qdrant:Qdrant", "qdrant_client"),
}
"""For each database its class, which is in this folder, and the packages that it needs."""

_QUERIES, _K = 100, 10
_LEAST_OVERLAP = 0.99
_TIE = 1e-5
_LOST = "{} stopped answering ({}). What is loaded is kept: continue with `export(resume=True)`."


BEGUN = -1
"""In the place of a shard in a ledger's first entry, which names the export before any shard is loaded."""


def ledger_of(table: str) -> str:
    """The name of the ledger of a table."""
    return f"{table}_ibkd_loaded"


@dataclass(frozen=True)
class Existing:
    """A table that is in the database.

    Attributes:
        rows: number of its rows.
        dim: length of its vectors. None if it has none.
        export: the digest of the index whose unfinished export it is. None if it is not an unfinished export.
        shards: numbers of the shards that are loaded.
    """

    rows: int
    dim: int | None
    export: str | None = None
    shards: frozenset[int] = frozenset()

    @classmethod
    def unfinished(cls, rows: int, dim: int | None, entries: Sequence[tuple[str, int]]) -> Existing:
        """A table with a ledger of these entries: the export, and a shard or `BEGUN`."""
        export = entries[0][0] if entries else None
        return cls(rows, dim, export, frozenset(shard for _, shard in entries) - {BEGUN})


class Database(Protocol):
    """One table of a database. Its constructor takes the address, the table's name and the index.

    Beside the table stands a ledger of the loaded shards. It is there until the export is verified.

    """

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """The errors of the database's client."""

    def existing(self) -> Existing | None:
        """The table. None if there is none."""

    def drop(self) -> None:
        """Remove the table and the ledger."""

    def create(self, export: str) -> None:
        """Make an empty table, and a ledger that names the export."""

    def load(self, export: str, shard: int, rows: Iterable[Rows]) -> None:
        """Write the rows of a shard and then its entry in the ledger. Rows that are there already are replaced."""

    def build_index(self) -> str:
        """Index the vectors. Returns the search parameters that `nearest` uses, "" for exact search."""

    def count(self) -> int:
        """The number of rows."""

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[list[str]]:
        """The ids of the k rows of largest inner product, for each query of [q, dim]."""

    def finish(self) -> None:
        """Remove the ledger."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class ExportedTable:
    """A table of a database that holds an index.

    Attributes:
        table: its name.
        documents: number of rows, one for each document of the index.
        overlap_at_10: the share of the exact ten nearest that the database finds, over `queries` queries.
        queries: number of queries, vectors of the index's own documents.
        search_params: the search parameters that reach this overlap. "" if the database searches exactly.
    """

    table: str
    documents: int
    overlap_at_10: float
    queries: int
    search_params: str


def export_to_database(
    folder: Path | str,
    to: str,
    url: str,
    *,
    table: str = "documents",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> ExportedTable:
    """Load the documents of an index that are not deleted, index their vectors, and verify the table.

    Args:
        folder: the index folder.
        to: a name of `DATABASES`.
        url: the address of the database.
        table: the table or collection to make.
        resume: continue an interrupted export of the same index.
        overwrite: replace the table.
        progress: receives progress reports.

    Raises:
        UserError: there is no sound index, the database cannot be reached, or the table is there.
        MissingPackage: the client of the database is not installed.
        WorkFailed: the database went away, or answers otherwise than the index.
    """
    place, *packages = DATABASES[to]
    for package in packages:
        require(package, f"`to='{to}'`", to)
    if not re.fullmatch(r"[A-Za-z_]\w{0,39}", table, re.ASCII):
        raise UserError(f"`table` is {table!r}: give a name of at most 40 letters, digits and underscores.")
    index = open_contents(folder)
    if not len(index):
        raise UserError(f"All documents of {folder} are deleted: there is nothing to export.")
    export = sha256_file(index.folder / MANIFEST)
    module, _, name = place.partition(":")
    made = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    with _connected(made, url, table, index) as database:
        with _failing(made, UserError, "{} refuses ({}): check `url` and what its user may do.", url):
            loaded = _begin(database, table, export, index.manifest.dim, resume, overwrite)
        with _failing(made, WorkFailed, _LOST, url):
            _load(database, index, export, loaded, progress)
            progress.say("All documents are loaded. The database indexes the vectors.")
            params = database.build_index()
            result = _verified(database, index, table, params)
            database.finish()
    return result


@contextmanager
def _connected(made: type[Database], url: str, table: str, index: IndexContents) -> Iterator[Database]:
    with _failing(made, UserError, "{} cannot be reached ({}): check `url`.", url):
        database = made(url, table, index)  # type: ignore[call-arg]
    with closing(database):
        yield database


@contextmanager
def _failing(made: type[Database], as_: type[Exception], sentence: str, url: str) -> Iterator[None]:
    """Turn the errors of a database's client into one sentence, without the password of the address."""
    try:
        yield
    except made.failures() as error:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else url
        reason = reason_of(error).replace(url, shown)
        raise as_(sentence.format(shown, reason.replace(parts.password or url, "***"))) from None


def _begin(database: Database, table: str, export: str, dim: int, resume: bool, overwrite: bool) -> frozenset[int]:
    """Make the table, or find what is loaded. Returns the loaded shards."""
    there = database.existing()
    if there is not None and resume and there.export == export:
        return there.shards
    if there is not None and not overwrite:
        what = f"{there.rows:,} rows" + (f" of {there.dim} dimensions" if there.dim else "")
        if there.export == export:
            raise UserError(
                f"The table {table} is an unfinished export of this index with {what}: continue with `resume=True`, or "
                "replace it with `overwrite=True`."
            )
        other = (
            "is an unfinished export of another index, or of this one before a change," if there.export else "exists"
        )
        aside = f", and the index has {dim} dimensions" if there.dim not in (None, dim) else ""
        raise UserError(
            f"The table {table} {other} with {what}{aside}: name another with `table`, or replace it with "
            "`overwrite=True`."
        )
    if there is not None:
        database.drop()
    database.create(export)
    return frozenset()


def _load(database: Database, index: IndexContents, export: str, loaded: frozenset[int], progress: Progress) -> None:
    shards = index.manifest.shards
    done = sum(shards[number].documents for number in loaded)
    refused: list[UserError] = []
    with progress.task("Loading documents", index.manifest.rows, "documents", done) as task:
        for number in range(len(shards)):
            if number in loaded:
                continue
            try:
                database.load(export, number, _read(index, number, task, refused))
            except Exception:
                # A client may make an error of its own of one that its rows raise.
                if refused:
                    raise refused[0] from None
                raise


def _read(index: IndexContents, number: int, task: Task, refused: list[UserError]) -> Iterator[Rows]:
    """The rows of a shard. What is wrong with them is also appended to `refused`."""
    try:
        for rows in index.shard_rows(number):
            try:
                for document in rows.documents:
                    f"{document.doc_id} {document.title} {document.text}".encode()
            except UnicodeEncodeError:
                raise half_a_pair(rows.documents) from None
            yield rows
            task.advance(len(rows.documents))
    except UserError as error:
        refused.append(error)
        raise


def _verified(database: Database, index: IndexContents, table: str, params: str) -> ExportedTable:
    counted = database.count()
    if counted != len(index):
        raise WorkFailed(
            f"The table {table} has {counted:,} rows, and the index {len(index):,} documents: something else writes to "
            "it. Export again with `export(overwrite=True)`."
        )
    overlap, queries = _overlap(database, index)
    if overlap < _LEAST_OVERLAP:
        raise WorkFailed(
            f"The table {table} finds {overlap:.3f} of the ten nearest documents, less than {_LEAST_OVERLAP}: it is "
            "kept, but not as it should be. Rebuild its index with more candidates, then verify it with "
            "`export(resume=True)`."
        )
    return ExportedTable(table, counted, overlap, queries, params)


def _overlap(database: Database, index: IndexContents) -> tuple[float, int]:
    """overlap@10 of the database and exact search, for vectors of documents, each without its own document.

    A document that scores as much as the tenth counts as found: which of equals is tenth is chance.
    """
    source = index.vector_source
    present = np.arange(source.count) if index.present is None else np.flatnonzero(index.present)
    asked = present[sample_rows(len(present), _QUERIES, np.random.default_rng(0))]
    k = min(_K + 1, len(present))
    if k == 1:
        return (1.0 if database.nearest(source.gather(asked), 1) == [index.doc_ids(asked)] else 0.0), 1
    queries = source.gather(asked)
    scores, rows = scan(queries, source, k, index.present)
    answers = database.nearest(queries, k)
    row_of = _rows_of(index, {name for answer in answers for name in answer}, rows)
    shares = []
    for query, own, exact, nearest, answer in zip(queries, asked, scores, rows, answers, strict=True):
        last = exact[nearest != own][: k - 1][-1]
        found = np.array([row for name in answer if (row := row_of.get(name, own)) != own], dtype=np.int64)[: k - 1]
        shares.append(float((source.products(found, query) >= last - _TIE * max(1.0, abs(last))).sum()) / (k - 1))
    return float(np.mean(shares)), len(asked)


def _rows_of(index: IndexContents, wanted: set[str], likely: NDArray[np.int64]) -> dict[str, int]:
    """The rows of ids, without those that are not in the index. `likely` holds most of them."""
    rows = np.unique(likely)
    found = dict(zip(index.doc_ids(rows), rows.tolist(), strict=True))
    if wanted - found.keys():
        found |= index.rows_of(wanted)
    return found
