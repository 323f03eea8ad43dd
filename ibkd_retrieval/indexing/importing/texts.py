"""Finds the documents of a corpus by id, through a temporary file, during an import."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.progress import Progress


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

    What a killed import into that folder left is deleted first; its caller is the folder's only writer.

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
        # The file is thrown away, whatever happens: nothing has to survive a crash.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        try:
            database.execute("CREATE TABLE documents (id BLOB, value TEXT)")
            with progress.task("Reading texts", corpus.count, "documents") as task:
                for document in corpus.documents():
                    value = json.dumps([document.title, document.text, dict(document.fields)])
                    database.execute("INSERT INTO documents VALUES (?, ?)", (_key(document.doc_id), value))
                    task.advance()
            # After the rows: sorted once, where rows of random ids would each land in another page.
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
