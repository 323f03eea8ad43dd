"""A finished index, opened for search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document, FieldValue
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss
from ibkd_retrieval.indexing.families.ivf_pq import default_effort, search_ivf
from ibkd_retrieval.indexing.layout import DOC_IDS, STRUCTURE, documents_file
from ibkd_retrieval.indexing.lines import LineStore
from ibkd_retrieval.indexing.manifest import IndexManifest, read_manifest
from ibkd_retrieval.indexing.shards import OpenFiles, ShardVectors, document_from_json, fields_from_json

ALWAYS_VERIFIED_BYTES = 256 << 20
"""Largest faiss file whose checksum is tested at every opening (a fraction of a second)."""

EXACT_ALLOWED_ROWS = 20_000
"""Rows up to which a filtered search compares all that are allowed, which no approximation could better."""

_FEW_ROWS = 64


class StoredIndex:
    """An index folder opened for search. Get one from `open_index`.

    Attributes:
        folder: the index folder.
        manifest: what the folder says of itself.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, structure: Any) -> None:
        self.folder = folder
        self.manifest = manifest
        self._structure = structure
        self._vectors = ShardVectors(folder, [shard.documents for shard in manifest.shards], manifest.dim)
        self._ids = LineStore(folder / DOC_IDS)
        self._texts = OpenFiles(lambda number: LineStore(folder / documents_file(number)))

    def __len__(self) -> int:
        """Number of documents."""
        return self.manifest.document_count

    @property
    def memory_bytes(self) -> int:
        """What the faiss structure takes in memory, which is what it takes on disk."""
        return self.manifest.files[STRUCTURE].bytes

    @property
    def disk_bytes(self) -> int:
        """Size of all files of the index, exact vectors and stored documents included."""
        return self.manifest.disk_bytes

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        nprobe: int | None = None,
        refine: int | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k documents of largest inner product for each query.

        Args:
            vectors: queries [q, dim].
            k: number of results.
            nprobe: inverted lists visited, where the index has them; if None, the manifest's default, or more where k
                is large (`families.ivf_pq.default_effort`).
            refine: candidates per result whose score is taken from the exact vectors, 0 for the scores of the codes;
                if None, the manifest's default, or less where k is large.
            allowed: one bool a row [n]; only rows that hold True are found. Few of them (up to
                `EXACT_ALLOWED_ROWS`) are compared exactly; of more, an approximate index visits as many times more
                lists as rows are shut out.

        Returns:
            Scores float32 [q, k], not increasing, and rows int64 [q, k]. Where fewer than k are found, rows end in
            -1 and scores in -inf.

        Raises:
            UserError: the vectors have another dimension than the index or are not finite, k is not positive, or the
                index is flat and nprobe or refine was given.
        """
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        self._check(queries, k, nprobe, refine, allowed)
        blas_threshold(self.manifest.dim)
        defaults = self.manifest.search
        # faiss sets k places aside for each query; a k far beyond the documents must not cost their memory twice.
        left = len(self) if allowed is None else int(np.count_nonzero(allowed))
        found = min(k, left)
        if not left:
            scores = np.empty((len(queries), 0), dtype=np.float32)
            rows = np.empty((len(queries), 0), dtype=np.int64)
        elif allowed is not None and left <= EXACT_ALLOWED_ROWS:
            faiss = load_faiss()
            candidates = np.flatnonzero(allowed)
            exact = self._vectors.gather(candidates)
            scores, places = faiss.knn(queries, exact, found, metric=faiss.METRIC_INNER_PRODUCT)
            rows = candidates[places]
        elif defaults.nprobe is None:
            parameters = None if allowed is None else load_faiss().SearchParameters(sel=_selector(allowed))
            scores, rows = self._structure.search(queries, found, params=parameters)
        else:
            effort = default_effort(defaults, found, self._structure.nlist, left)
            nprobe = effort.nprobe if nprobe is None else nprobe
            refine = effort.refine if refine is None else refine
            selector = None
            if allowed is not None:
                selector = _selector(allowed)
                nprobe = min(self._structure.nlist, math.ceil((nprobe or 1) * len(self) / left))
            scores, rows = search_ivf(
                self._structure, queries, found, nprobe or 1, refine or 0, self._vectors, selector
            )
        scores[rows < 0] = -np.inf
        if found < k:
            scores = np.pad(scores, ((0, 0), (0, k - found)), constant_values=-np.inf)
            rows = np.pad(rows, ((0, 0), (0, k - found)), constant_values=-1)
        return scores, rows

    def doc_id(self, row: int) -> str:
        """The id of the document in `row`."""
        return self._ids[int(row)]

    def doc_ids(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The ids of the documents in `rows` (without padding); many are read fastest in ascending order."""
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

    def all_doc_ids(self) -> Iterator[str]:
        """The ids of all documents in row order, as a stream."""
        return iter(self._ids)

    def documents(self) -> Iterator[Document]:
        """All stored documents in row order, as a stream."""
        for number in range(len(self.manifest.shards)):
            yield from map(document_from_json, LineStore(self.folder / documents_file(number)))

    def fields(self) -> Iterator[dict[str, FieldValue]]:
        """The fields of all documents in row order, as a stream; several times as fast as the documents."""
        for number in range(len(self.manifest.shards)):
            yield from map(fields_from_json, LineStore(self.folder / documents_file(number)))

    def document(self, row: int) -> Document:
        """The stored document in `row`."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} documents")
        number, position = self._vectors.place(int(row))
        return document_from_json(self._texts[number][position])

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """The exact vectors, shard by shard [n, dim], memory-mapped and read-only."""
        return iter(self._vectors)

    def _check(
        self,
        queries: NDArray[np.float32],
        k: int,
        nprobe: int | None,
        refine: int | None,
        allowed: NDArray[np.bool_] | None,
    ) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise UserError(
                f"The query vectors have shape {queries.shape}, the index in {self.folder} holds vectors of "
                f"{self.manifest.dim} dimensions: search it with the model it was made with, "
                f"{self.manifest.encoder.name}, or one that shares its vector space."
            )
        if not np.isfinite(queries).all():
            raise UserError("A query vector is not finite (NaN or infinity): the model that made it is damaged.")
        if k < 1:
            raise UserError(f"The number of results must be at least 1, not {k}.")
        if allowed is not None and allowed.shape != (len(self),):
            raise ValueError(f"`allowed` has shape {allowed.shape}, the index {len(self)} rows")
        if self.manifest.search.nprobe is None and (nprobe is not None or refine is not None):
            raise UserError(
                f"The index in {self.folder} is {self.manifest.family} and always exact: leave out nprobe and refine."
            )
        if nprobe is not None and nprobe < 1:
            raise UserError(f"The number of lists to visit (nprobe) must be at least 1, not {nprobe}.")
        if refine is not None and refine < 0:
            raise UserError(f"The candidates to refine per result must be 0 (off) or more, not {refine}.")


def _selector(allowed: NDArray[np.bool_]) -> Any:
    faiss = load_faiss()
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def open_index(folder: Path | str, verify: bool = False) -> StoredIndex:
    """Open a finished index.

    Sizes of all files are always compared with the manifest, checksums of all with `verify`, and that of the faiss
    file whenever it is small.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
        MissingPackage: faiss is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _verify_files(folder, manifest, contents=verify)
    faiss = load_faiss()
    try:
        structure = faiss.read_index(str(folder / STRUCTURE))
    except RuntimeError as error:
        raise _damaged(folder, STRUCTURE, "faiss cannot read it") from error
    if structure.d != manifest.dim or structure.ntotal != manifest.document_count:
        raise _damaged(
            folder,
            STRUCTURE,
            f"it holds {structure.ntotal:,} vectors of {structure.d} dimensions and "
            f"{manifest.document_count:,} of {manifest.dim} are recorded",
        )
    return StoredIndex(folder, manifest, structure)


def verify_index(folder: Path | str) -> IndexManifest:
    """Compare size and checksum of every file with the manifest, and return it.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
    """
    manifest = read_manifest(folder)
    _verify_files(Path(folder), manifest, contents=True)
    return manifest


def _verify_files(folder: Path, manifest: IndexManifest, contents: bool) -> None:
    for name in (STRUCTURE, DOC_IDS):
        if name not in manifest.files:
            raise _damaged(folder, name, "the manifest does not list it")
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, name, "it is missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise _damaged(folder, name, f"it has {size:,} bytes and {record.bytes:,} are recorded")
        read = contents or (name == STRUCTURE and size <= ALWAYS_VERIFIED_BYTES)
        if read and sha256_file(path) != record.sha256:
            raise _damaged(folder, name, "its checksum is not the one recorded")


def _damaged(folder: Path, name: str, what: str) -> UserError:
    return UserError(
        f"The index is damaged in {folder / name}: {what}; repair it with `ibkd index --resume`, which encodes only "
        "what is not intact, or make it anew with `ibkd index --overwrite`."
    )
