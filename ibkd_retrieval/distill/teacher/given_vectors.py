"""Reads the vectors of a teacher of which there is no model, and finds the vector of each text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.columns import AUTOMATIC, DOCUMENT, QUERY, Fields
from ibkd_retrieval.corpora.records import Corpus, Document, Query, QuerySet
from ibkd_retrieval.distill.data.texts import KeyIndex, text_keys
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.format.layout import is_index
from ibkd_retrieval.indexing.format.manifest import UNNAMED_MODEL, read_manifest
from ibkd_retrieval.indexing.importing import (
    BLOCK_ROWS,
    ForeignVectors,
    VectorsDigest,
    alike,
    checked_lengths,
    said_lengths,
)
from ibkd_retrieval.indexing.importing.formats import index_vectors, open_vectors, rows_in_order
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True)
class GivenVectors:
    """Vectors, and where their texts are.

    Attributes:
        path: a file or folder of vectors (`open_vectors`), or an index.
        texts: the texts of the vectors, matched by text or by id; those of a `.npy` file by their order. None takes the
            texts that are stored with the vectors.
        kind: "document" or "query".
        fields: the columns of the file.
        vector_field: the column of the vectors.
    """

    path: str
    texts: Corpus | QuerySet | None = None
    kind: str = "document"
    fields: Fields = AUTOMATIC
    vector_field: str | None = None

    @property
    def in_order(self) -> bool:
        """Whether vectors and texts are matched by their order: the vectors come without ids."""
        return Path(self.path).suffix == ".npy" and Path(self.path).is_file()

    def opened(self) -> ForeignVectors:
        """The vectors, with the ids and texts that are stored with them."""
        if is_index(Path(self.path)):
            return index_vectors(Path(self.path))
        if self.in_order:
            return rows_in_order(Path(self.path))
        kind = QUERY if self.kind == "query" else DOCUMENT
        return open_vectors(self.path, kind=kind, fields=self.fields, vector_field=self.vector_field, incomplete=True)

    def recorded(self) -> tuple[str, str]:
        """The name of the encoder and the hash that stands for its vector space, as an index records them, else ""."""
        if not is_index(Path(self.path)):
            return "", ""
        made_by = read_manifest(Path(self.path)).encoder
        return "" if made_by.name == UNNAMED_MODEL else made_by.name, made_by.space

    def listed(self) -> Iterator[tuple[str, str]]:
        """Id and text of every text that is given beside the vectors."""
        if isinstance(self.texts, Corpus):
            return ((document.doc_id, document.content) for document in self.texts.documents())
        return iter(self.texts.queries if self.texts is not None else ())


class FoundVectors:
    """The vectors of one source, appended to a file of float32, and the places of their texts.

    Attributes:
        given: the source.
        count: number of vectors.
        dim: length of a vector.
        digest: hex digest of the vectors in their order.
    """

    def __init__(self, given: GivenVectors, file: IO[bytes], progress: Progress = SILENT) -> None:
        """Read, check and write the vectors.

        Args:
            given: the source.
            file: the file to append to.
            progress: receives how many texts have no vector, and whether vectors have length 1.

        Raises:
            UserError: a vector is unfit, or texts and vectors do not belong together.
            WorkFailed: the file cannot be written.
        """
        self.given, self.count, self.dim = given, 0, 0
        self._foreign = given.opened()
        self._has_texts = False
        ids, keys = self._read(file, progress)
        if given.in_order:
            keys, self._rows = self._by_order(), np.arange(self.count)
        elif self._has_texts:
            self._rows = np.arange(self.count)
        else:
            keys, self._rows = self._by_id(ids)
        self._keys = keys
        self._index = KeyIndex(keys)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The places [n] of the vectors of text keys [n, 2]. -1 where there is none."""
        places = self._index.find(keys)
        return np.where(places < 0, -1, self._rows[places]) if len(self._rows) else places

    def stored_texts(self) -> Corpus:
        """The texts that are stored with the vectors."""
        if not self._has_texts:
            parameter = "queries" if self.given.kind == "query" else "corpus"
            raise UserError(f"{self.given.path} holds vectors without texts: name their texts with `{parameter}`.")
        blocks = self._foreign.blocks
        documents = lambda: (document for block in blocks() for document in block.documents)  # noqa: E731
        return Corpus(self._foreign.name, self.count, documents)

    def stored_queries(self) -> QuerySet:
        """The texts that are stored with the vectors, as queries."""
        found = self.stored_texts()
        return QuerySet(found.name, tuple(Query(each.doc_id, each.content) for each in found.documents()))

    def refuse_contradictions(self, vectors: NDArray[np.float32]) -> None:
        """Refuse a text with two vectors [count, dim] that differ.

        Raises:
            UserError: there is one.
        """
        order = np.lexsort((self._rows, self._keys[:, 1], self._keys[:, 0]))
        again = np.flatnonzero((self._keys[order[1:]] == self._keys[order[:-1]]).all(axis=1))
        for start in range(0, len(again), BLOCK_ROWS):
            part = again[start : start + BLOCK_ROWS]
            pairs = self._rows[order[part]], self._rows[order[part + 1]]
            differ = ~alike(vectors[pairs[0]], vectors[pairs[1]])
            # Documents without text are not learnt from.
            wrong = np.flatnonzero(differ & (self._keys[order[part]] != text_keys([""])).any(axis=1))
            if len(wrong):
                first, second = (int(rows[wrong[0]]) + 1 for rows in pairs)
                raise UserError(
                    f"Vectors {first:,} and {second:,} in {self.given.path} belong to the same text and differ: "
                    "keep one of them."
                )

    def _read(self, file: IO[bytes], progress: Progress) -> tuple[list[str], NDArray[np.uint64]]:
        """Check and write the vectors. Return the ids if no text is stored with the vectors, and the keys of texts."""
        given, digest = self.given, VectorsDigest()
        ids: list[str] = []
        keys: list[NDArray[np.uint64]] = [np.empty((0, 2), dtype=np.uint64)]
        shortest, longest = np.inf, 0.0
        with progress.task("reading vectors", self._foreign.count, "vectors") as task:
            for documents, vectors in self._foreign.blocks_of(BLOCK_ROWS):
                self.dim = vectors.shape[1]
                lengths = checked_lengths(vectors, Path(given.path), self.count)
                if not lengths.all():
                    zero = self.count + int(np.argmin(lengths)) + 1
                    raise UserError(f"Vector {zero:,} in {given.path} is all zeros and has no direction: remove it.")
                shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
                digest.update(vectors)
                try:
                    file.write(np.ascontiguousarray(vectors, dtype=np.float32).data)
                except OSError as error:
                    raise WorkFailed(f"The vectors of {given.path} cannot be kept ({error}): make room.") from error
                self._has_texts = self._has_texts or any(map(_has_text, documents))
                if not given.in_order:
                    keys.append(text_keys([document.content.strip() for document in documents]))
                    ids += () if self._has_texts else [document.doc_id for document in documents]
                self.count += len(documents)
                task.advance(len(documents))
        file.flush()
        if not self.count:
            raise UserError(f"{given.path} holds no vectors: there is nothing to learn from.")
        self.digest = digest.hexdigest()
        if self._foreign.count is not None and self._foreign.count > self.count:
            left_out = self._foreign.count - self.count
            progress.say(f"{left_out:,} of {self._foreign.count:,} texts in {given.path} have no vector: left out")
        progress.say(f"{given.path}: {self.count:,} vectors × {self.dim} dimensions, {said_lengths(shortest, longest)}")
        return ids, np.concatenate(keys)

    def _by_order(self) -> NDArray[np.uint64]:
        """The keys of the texts beside the vectors, which have the same order."""
        if self.given.texts is None:
            parameter = "queries" if self.given.kind == "query" else "corpus"
            raise UserError(
                f"{self.given.path} holds vectors without texts: name the texts, in their order, with `{parameter}`."
            )
        keys = _keys_of(text for _, text in self.given.listed())
        if len(keys) != self.count:
            raise UserError(
                f"{self.given.path} holds {self.count:,} vectors and {self.given.texts.name} {len(keys):,} texts: give "
                "one vector for each text, in the same order."
            )
        return keys

    def _by_id(self, ids: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The keys of the texts beside the vectors whose ids are among those of the vectors, and their places."""
        places = {name: place for place, name in enumerate(ids)}
        if len(places) < len(ids):
            raise UserError(f"{self.given.path} lists an id twice: give every vector its own.")
        rows: list[int] = []

        def texts() -> Iterator[str]:
            for name, text in self.given.listed():
                if (place := places.get(name)) is not None:
                    rows.append(place)
                    yield text

        keys = _keys_of(texts())
        return keys, np.array(rows, dtype=np.int64)


def _has_text(document: Document) -> bool:
    return bool(document.content.strip())


def _keys_of(texts: Iterator[str]) -> NDArray[np.uint64]:
    """The keys [n, 2] of texts, without the white space around each."""
    keys: list[NDArray[np.uint64]] = [np.empty((0, 2), dtype=np.uint64)]
    while block := [text.strip() for text in islice(texts, BLOCK_ROWS)]:
        keys.append(text_keys(block))
    return np.concatenate(keys)
