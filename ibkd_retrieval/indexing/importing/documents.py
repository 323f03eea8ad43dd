"""The ids and texts of imported documents."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from ibkd_retrieval.corpora.formats import format_suffix, read_lines
from ibkd_retrieval.corpora.records import Corpus, Document, checked_id
from ibkd_retrieval.corpora.tabular import read_documents
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.importing.parquet import id_column, open_parquet
from ibkd_retrieval.progress import Progress

_BATCH_ROWS = 65536


def read_ids(path: Path) -> Iterator[str]:
    """Read the ids of a file in its order, one at a time.

    A parquet file gives its id column (`_id`, `id`, `docid` or `doc_id`, or its only one), a `.tsv` its first column, a
    `.jsonl` its ids under their usual names, and any other file its lines. `.gz` and `.zst` are decompressed.

    Raises:
        UserError: the file cannot be read, or a line is no id (`records.is_id`).
    """
    if path.suffix == ".parquet":
        yield from _of_parquet(path)
        return
    if format_suffix(path) in (".jsonl", ".ndjson"):
        yield from (document.doc_id for document in read_documents(path))
        return
    first_column = format_suffix(path) == ".tsv"
    for number, line in read_lines(path):
        text = line.split("\t", 1)[0] if first_column else line.strip()
        yield checked_id(text, f"{path}, line {number}")


def count_ids(path: Path) -> int:
    """The number of ids that `read_ids` gives."""
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    return sum(1 for _ in read_lines(path))


def require_as_many(vectors: int, path: Path, ids: Path) -> None:
    """Refuse a list of ids that cannot belong to `vectors` vectors in `path`.

    Raises:
        UserError: the numbers differ.
    """
    listed = count_ids(ids)
    if listed != vectors:
        raise UserError(
            f"{path} holds {vectors:,} vectors and {ids} lists {listed:,} ids: give one id for each vector, in the "
            "same order."
        )


def _of_parquet(path: Path) -> Iterator[str]:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        column = names[0] if len(names) == 1 else id_column(path, names)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield checked_id(value, f"{path}, row {number}")


class TextsById:
    """Documents of a corpus, found by id. Get one from `texts_by_id`."""

    def __init__(self, corpus: str, database: sqlite3.Connection) -> None:
        self._corpus = corpus
        self._database = database

    def documents(self, ids: Iterable[str]) -> list[Document]:
        """The documents of these ids, in this order.

        Raises:
            UserError: the corpus has no document of an id.
        """
        found = []
        for doc_id in ids:
            query = "SELECT value FROM documents WHERE id = ?"
            row = self._database.execute(query, (_key(doc_id),)).fetchone()
            if row is None:
                raise UserError(
                    f"There is a vector for the document {doc_id!r}, which {self._corpus} does not hold: name the "
                    "corpus that was encoded, or leave out `corpus`."
                )
            title, text, fields = json.loads(row[0])
            found.append(Document(doc_id, text, title, fields) if fields else Document(doc_id, text, title))
        return found


@contextmanager
def texts_by_id(corpus: Corpus, index: Path, progress: Progress) -> Iterator[TextsById]:
    """Write a corpus into a temporary SQLite file beside the folder `index`, of about the size of its texts.

    Files of a killed import into that folder are deleted first. The caller has locked the folder.

    Raises:
        UserError: an id appears twice.
        WorkFailed: the disk is full or fails.
    """
    folder, prefix = index.parent, f".{index.name}.texts-"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    with (
        TemporaryDirectory(prefix=prefix, dir=folder) as temporary,
        closing(sqlite3.connect(Path(temporary) / "texts.sqlite")) as database,
    ):
        # The file is temporary, so nothing has to survive a crash.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        try:
            database.execute("CREATE TABLE documents (id BLOB, value TEXT)")
            with progress.task("Reading texts", corpus.expected, "documents") as task:
                for document in corpus.documents():
                    value = json.dumps([document.title, document.text, dict(document.fields)])
                    database.execute("INSERT INTO documents VALUES (?, ?)", (_key(document.doc_id), value))
                    task.advance()
            # Made after the rows, so that they are sorted once. Each row of a random id would touch another page.
            database.execute("CREATE UNIQUE INDEX by_id ON documents (id)")
        except sqlite3.IntegrityError as error:
            raise UserError(f"A document id appears twice in {corpus.name}: give every document its own.") from error
        except sqlite3.OperationalError as error:
            raise WorkFailed(
                f"The texts of {corpus.name} cannot be kept in {folder} ({error}): make room there, they take as much "
                "as the corpus does."
            ) from error
        yield TextsById(corpus.name, database)


def _key(doc_id: str) -> bytes:
    # Lone surrogates, which JSON can carry, have no UTF-8 bytes.
    return doc_id.encode("utf-8", "surrogatepass")
