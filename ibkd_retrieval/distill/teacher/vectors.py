"""A teacher of which there are only vectors, by text: no model is loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, Document, QuerySet
from ibkd_retrieval.distill.data.texts import text_keys
from ibkd_retrieval.distill.teacher.cache import as_cached
from ibkd_retrieval.distill.teacher.given_vectors import FoundVectors, GivenVectors
from ibkd_retrieval.encoders.weights import ParameterCount
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing import BLOCK_ROWS
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind, TextEncoder
    from ibkd_retrieval.progress import Task


class VectorTeacher:
    """Vectors by text, in the place of a model and of the cache of its vectors (`TextEncoder`, `TeacherVectors`).

    A text is looked up among those of its own kind first, without the white space around it.

    Attributes:
        name: the path of the vectors, or the encoder that their index records.
        weight_hash: the weight hash that their index records, or a digest of the vectors.
        corpus: the documents that have a vector.
        queries: the queries that have a vector. None where none are given.
    """

    max_length, pooling, dtype, device = 0, None, "float32", "cpu"

    def __init__(
        self,
        documents: GivenVectors,
        queries: GivenVectors | None,
        folder: Path,
        asked: QuerySet | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Read vectors and find their texts.

        Args:
            documents: the vectors of the documents.
            queries: those of queries, or None.
            folder: a folder for a temporary file, of 4 bytes for each dimension of a vector.
            asked: queries to learn from. None takes those of `queries`.
            progress: receives what is found and what is left out.

        Raises:
            UserError: a vector or a text is unfit, or they do not belong together.
            WorkFailed: the temporary file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.prompts: Mapping[str, str] = {"query": "", "document": ""}
        self.parameters = ParameterCount(embedding=0, transformer=0)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        given = [documents] if queries is None else [documents, queries]
        self._found = [FoundVectors(each, self._file, progress) for each in given]
        first, last = self._found[0], self._found[-1]
        if last.dim != first.dim:
            raise UserError(
                f"{last.given.path} holds vectors of {last.dim} dimensions and {documents.path} of {first.dim}: give "
                "vectors of one model."
            )
        self.dim = first.dim
        count = sum(each.count for each in self._found)
        self._vectors: NDArray[np.float32] = np.memmap(self._file, np.float32, "r", shape=(count, self.dim))
        self._starts = (0, first.count)[: len(self._found)]
        for each, start in zip(self._found, self._starts, strict=True):
            each.refuse_contradictions(self._vectors[start : start + each.count])
        name, space = documents.recorded()
        self.name, self.weight_hash = name or documents.path, space or first.digest
        texts = documents.texts if isinstance(documents.texts, Corpus) else first.stored_texts()
        self.corpus = self.having(texts, progress)
        asked = asked or (last.stored_queries() if queries is not None else None)
        self.queries = None if asked is None else self.having_queries(asked, progress)

    @property
    def teacher(self) -> TextEncoder:
        """The teacher itself: it is its own cache."""
        return self

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", progress: Task | None = None
    ) -> NDArray[np.float32]:
        """The vectors [n, dim] of texts, as they were given.

        Raises:
            UserError: a text has none.
        """
        vectors = np.array(self._vectors[self.rows(texts, kind)])
        if progress is not None:
            progress.advance(len(texts))
        return vectors

    def rows(self, texts: Sequence[str], kind: Kind = "document", progress: Progress = SILENT) -> NDArray[np.int64]:
        """The positions [n] of the texts' vectors.

        Raises:
            UserError: a text has none.
        """
        found = self._find(texts, kind)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            raise UserError(
                f"{len(missing):,} of {len(texts):,} texts have no vector in {self._paths}, such as "
                f"{texts[int(missing[0])][:60]!r}: give their vectors too, or leave them out."
            )
        return found

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The unit vectors [n, dim] at positions [n], rounded as the cache of a model's vectors rounds them."""
        return as_cached(np.array(self._vectors[rows]))

    def having(self, corpus: Corpus, progress: Progress = SILENT) -> Corpus:
        """The documents of a corpus that have a vector. The others are counted when it is first read to its end."""
        told: list[Progress] = [progress]

        def documents() -> Iterator[Document]:
            count = left_out = 0
            read = corpus.documents()
            while block := list(islice(read, BLOCK_ROWS)):
                there = self._find([document.content for document in block], "document") >= 0
                count, left_out = count + len(block), left_out + int(np.count_nonzero(~there))
                yield from compress(block, there.tolist())
            self._say_left_out(left_out, count, f"documents of {corpus.name}", told.pop() if told else SILENT)

        return replace(corpus, _open=documents, _lines=lambda: None)

    def having_queries(self, asked: QuerySet, progress: Progress = SILENT) -> QuerySet:
        """The queries of a set that have a vector, with their judgements."""
        there = self._find([query.text for query in asked.queries], "query") >= 0
        kept = tuple(query for query, known in zip(asked.queries, there.tolist(), strict=True) if known)
        self._say_left_out(len(there) - len(kept), len(there), f"queries of {asked.name}", progress)
        names = {query.query_id for query in kept}
        judged = tuple(judgement for judgement in asked.judgements if judgement.query_id in names)
        return replace(asked, queries=kept, judgements=judged)

    @property
    def _paths(self) -> str:
        return " or ".join(each.given.path for each in self._found)

    def _say_left_out(self, left_out: int, count: int, what: str, progress: Progress) -> None:
        if left_out == count:
            raise UserError(f"None of the {count:,} {what} has a vector in {self._paths}: give their vectors too.")
        if left_out:
            progress.say(f"{left_out:,} of the {count:,} {what} have no vector and are left out")

    def _find(self, texts: Sequence[str], kind: Kind) -> NDArray[np.int64]:
        """The positions [n] of the texts' vectors. -1 where there is none."""
        keys = text_keys([text.strip() for text in texts])
        found = np.full(len(texts), -1, dtype=np.int64)
        tables = list(zip(self._found, self._starts, strict=True))
        for table, start in tables if kind == "document" else reversed(tables):
            open_ = np.flatnonzero(found < 0)
            places = table.find(keys[open_])
            found[open_] = np.where(places < 0, -1, places + start)
        return found
