"""Reads the vectors, ids and documents of a finished index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import compress, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document, FieldValue
from ibkd_retrieval.indexing.format.integrity import (
    Unchanged,
    damaged,
    read_consistently,
    verify_files,
)
from ibkd_retrieval.indexing.format.layout import documents_file
from ibkd_retrieval.indexing.format.lines import LineStore, offsets_path
from ibkd_retrieval.indexing.format.manifest import IndexManifest
from ibkd_retrieval.indexing.format.shards import OpenFiles, document_from_json, fields_from_json
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors

_FEW_ROWS = 64
_BLOCK_ROWS = 8192


class Rows(NamedTuple):
    """Documents with their vectors, float32 [n, dim]."""

    documents: list[Document]
    vectors: NDArray[np.float32]


class IndexContents:
    """What the files of an index hold, without its search structure. Get one from `open_contents`.

    Attributes:
        folder: the index folder.
        manifest: the manifest of the index.
    """

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._unchanged = Unchanged(folder, manifest)
        counts = [shard.documents for shard in manifest.shards]
        self._vectors = ShardVectors(folder, counts, manifest.dim, check=self._unchanged.check_vectors)
        self._ids = LineStore(folder / manifest.doc_ids)
        self._present = _present_rows(folder, manifest)
        self._texts: OpenFiles[LineStore] = OpenFiles()

    def __len__(self) -> int:
        """Number of documents that are not deleted. Deleted documents keep their rows."""
        return self.manifest.document_count

    @property
    def disk_bytes(self) -> int:
        """Size of all files of the index, exact vectors and stored documents included."""
        return self.manifest.disk_bytes

    def doc_id(self, row: int) -> str:
        """The id of the document in `row`."""
        return self._ids[int(row)]

    def doc_ids(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The ids of the documents in `rows` (without padding). Ascending rows are read fastest."""
        if len(rows) < _FEW_ROWS:
            return [self._ids[int(row)] for row in rows]
        wanted = np.asarray(rows, dtype=np.int64)
        if (wanted[1:] >= wanted[:-1]).all():
            return self._ids.lines(wanted)
        order = np.argsort(wanted, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        ids = self._ids.lines(wanted[order])
        return [ids[place] for place in places.tolist()]

    def documents(self) -> Iterator[Document]:
        """The stored document of every row in order, deleted ones included, as a stream."""
        for number in range(len(self.manifest.shards)):
            yield from self.shard_documents(number)

    def shard_documents(self, number: int) -> Iterator[Document]:
        """The stored document of every row of one shard, as a stream."""
        yield from map(document_from_json, self._open_texts(number))

    def fields(self) -> Iterator[dict[str, FieldValue]]:
        """The fields of every row's document in order, as a stream. Several times faster than `documents`."""
        for number in range(len(self.manifest.shards)):
            yield from map(fields_from_json, self._open_texts(number))

    def document(self, row: int) -> Document:
        """The stored document in `row`."""
        if not 0 <= row < self.manifest.rows:
            raise IndexError(f"row {row} of {self.manifest.rows}")
        number, position = self._vectors.place(int(row))
        try:
            return document_from_json(self._texts.get(number, self._open_texts)[position])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(self.folder, self.manifest, documents_file(number), f"it is not JSON ({error})") from error

    def _open_texts(self, number: int) -> LineStore:
        texts = documents_file(number)
        for name in (texts, offsets_path(Path(texts)).as_posix()):
            self._unchanged.check_contents(name)
        return LineStore(self.folder / texts)

    @property
    def vector_source(self) -> VectorSource:
        """The stored vectors of every row, deleted ones included, block by block or by row."""
        return self._vectors

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """The stored vectors as float32, shard by shard [n, dim], rows of deleted documents included."""
        return map(self.shard_vectors, range(len(self.manifest.shards)))

    def shard_vectors(self, number: int) -> NDArray[np.float32]:
        """The stored vectors of one shard [n, dim], as float32. The checksum of its file is compared first."""
        self._unchanged.check_contents(self.manifest.shards[number].vectors)
        return next(self._vectors.from_shard(number))

    def shard_rows(self, number: int) -> Iterator[Rows]:
        """The documents of one shard that were not deleted, with their vectors, in blocks of at most 8,192."""
        present = self.shard_present(number)
        vectors, documents = self.shard_vectors(number), self.shard_documents(number)
        if present is not None:
            vectors, documents = vectors[present], compress(documents, present)
        for start in range(0, len(vectors), _BLOCK_ROWS):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS], dtype=np.float32)
            yield Rows(list(islice(documents, len(block))), block)

    def sample(self, count: int = 3) -> tuple[list[str], NDArray[np.float32]]:
        """Texts of the first documents that have any, and their stored vectors [at most count, dim], from one shard."""
        if not self.manifest.shards:
            return [], np.empty((0, self.manifest.dim), dtype=np.float32)
        texts = (document.content for document in self.shard_documents(0))
        found = dict(islice(((row, text) for row, text in enumerate(texts) if text.strip()), count))
        return list(found.values()), self.shard_vectors(0)[list(found)]

    def all_ids(self) -> Iterator[str]:
        """The id of every row in order, those of deleted documents included."""
        return iter(self._ids)

    def present_ids(self) -> Iterator[str]:
        """The ids of the documents that can be found, in the order of their rows."""
        if self._present is None:
            return iter(self._ids)
        return compress(self._ids, self._present)

    def rows_of(self, doc_ids: Collection[str]) -> dict[str, int]:
        """The rows of those of these documents that can be found, in the order of their rows."""
        wanted, present = set(doc_ids), self._present
        return {
            doc_id: row
            for row, doc_id in enumerate(self._ids)
            if doc_id in wanted and (present is None or present[row])
        }

    @property
    def present(self) -> NDArray[np.bool_] | None:
        """Bool [n], False for rows of deleted documents. None if no document is deleted."""
        return self._present

    def shard_present(self, number: int) -> NDArray[np.bool_] | None:
        """Bool [n], False for the rows of one shard that were deleted. None if no document of the index is."""
        if self._present is None:
            return None
        start = sum(shard.documents for shard in self.manifest.shards[:number])
        return self._present[start : start + self.manifest.shards[number].documents]

    def findable(self, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.bool_] | None:
        """Bool [n], True for rows that are allowed and not deleted. None for all rows."""
        if allowed is not None and allowed.shape != (self.manifest.rows,):
            raise ValueError(f"`allowed` has shape {allowed.shape}, the index {self.manifest.rows} rows")
        if self._present is None or allowed is None:
            return self._present if allowed is None else allowed
        return allowed & self._present


def open_contents(folder: Path | str, structure: bool = False) -> IndexContents:
    """Open a finished index for its vectors and documents. The structure is not loaded.

    Args:
        folder: the index folder.
        structure: verify the structure's file too.

    Raises:
        UserError: the folder holds no finished index, or a file of it that is to be used is missing or damaged.
    """
    folder = Path(folder)

    def opened(manifest: IndexManifest) -> IndexContents:
        verify_files(folder, manifest, structure=structure)
        return IndexContents(folder, manifest)

    return read_consistently(folder, opened)


def _present_rows(folder: Path, manifest: IndexManifest) -> NDArray[np.bool_] | None:
    if manifest.tombstones is None:
        return None
    try:
        deleted = np.load(folder / manifest.tombstones, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder, manifest, manifest.tombstones, f"it cannot be read ({error})") from error
    if deleted.dtype != np.int64 or deleted.shape != (manifest.deleted_count,):
        raise damaged(folder, manifest, manifest.tombstones, f"it does not list {manifest.deleted_count:,} rows")
    if len(deleted) and not 0 <= deleted.min() <= deleted.max() < manifest.rows:
        raise damaged(folder, manifest, manifest.tombstones, "it lists rows that are not there")
    present = np.ones(manifest.rows, dtype=np.bool_)
    present[deleted] = False
    return present


def first_unlike(indexes: Sequence[IndexContents]) -> IndexContents | None:
    """The first index whose encoder differs from that of `indexes[0]`. None if all agree."""
    ours = indexes[0].manifest.encoder
    return next((index for index in indexes[1:] if not index.manifest.encoder.makes_the_vectors_of(ours)), None)
