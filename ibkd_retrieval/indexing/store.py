"""A finished index, opened for search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss
from ibkd_retrieval.indexing.families.ivf_pq import default_effort, search_ivf
from ibkd_retrieval.indexing.layout import documents_file
from ibkd_retrieval.indexing.lines import LineStore
from ibkd_retrieval.indexing.manifest import IndexManifest, read_manifest
from ibkd_retrieval.indexing.shards import OpenFiles, ShardVectors, document_from_json

ALWAYS_VERIFIED_BYTES = 256 << 20
"""Largest faiss file whose checksum is tested at every opening (a fraction of a second)."""

EXACT_ALLOWED_ROWS = 20_000
"""Rows up to which a filtered search compares all that are allowed, which no approximation could better."""


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
        self._ids = LineStore(folder / manifest.doc_ids)
        self._present = _present_rows(folder, manifest)
        self._texts = OpenFiles(lambda number: LineStore(folder / documents_file(number)))

    def __len__(self) -> int:
        """Number of documents that can be found; deleted ones keep their rows and are not counted."""
        return self.manifest.document_count

    @property
    def memory_bytes(self) -> int:
        """What the faiss structure takes in memory, which is what it takes on disk."""
        return self.manifest.files[self.manifest.structure].bytes

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
        allowed = self._still_there(allowed)
        self._check(queries, k, nprobe, refine)
        blas_threshold(self.manifest.dim)
        defaults = self.manifest.search
        # faiss sets k places aside for each query; a k far beyond the documents must not cost their memory twice.
        left = self.manifest.rows if allowed is None else int(np.count_nonzero(allowed))
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
                nprobe = min(self._structure.nlist, math.ceil((nprobe or 1) * self.manifest.rows / left))
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

    def doc_ids(self, rows: Iterable[int]) -> list[str]:
        """The ids of the documents in `rows` (without padding)."""
        return [self._ids[int(row)] for row in rows]

    def document(self, row: int) -> Document:
        """The stored document in `row`."""
        if not 0 <= row < self.manifest.rows:
            raise IndexError(f"row {row} of {self.manifest.rows}")
        number, position = self._vectors.place(int(row))
        return document_from_json(self._texts[number][position])

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """The stored vectors as float32, shard by shard [n, dim]; deleted documents' rows are among them."""
        return iter(self._vectors)

    @property
    def present(self) -> NDArray[np.bool_] | None:
        """One bool a row, False for those of deleted documents; None where none was deleted."""
        return self._present

    def _still_there(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """The rows that are allowed and whose documents were not deleted; None for all."""
        if allowed is not None and allowed.shape != (self.manifest.rows,):
            raise ValueError(f"`allowed` has shape {allowed.shape}, the index {self.manifest.rows} rows")
        if self._present is None or allowed is None:
            return self._present if allowed is None else allowed
        return allowed & self._present

    def _check(
        self,
        queries: NDArray[np.float32],
        k: int,
        nprobe: int | None,
        refine: int | None,
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
        structure = faiss.read_index(str(folder / manifest.structure))
    except RuntimeError as error:
        raise _damaged(folder, manifest.structure, "faiss cannot read it") from error
    if structure.d != manifest.dim or structure.ntotal != manifest.rows:
        raise _damaged(
            folder,
            manifest.structure,
            f"it holds {structure.ntotal:,} vectors of {structure.d} dimensions and "
            f"{manifest.rows:,} of {manifest.dim} are recorded",
        )
    return StoredIndex(folder, manifest, structure)


def _present_rows(folder: Path, manifest: IndexManifest) -> NDArray[np.bool_] | None:
    if manifest.tombstones is None:
        return None
    try:
        deleted = np.load(folder / manifest.tombstones, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, manifest.tombstones, f"it cannot be read ({error})") from error
    if deleted.dtype != np.int64 or deleted.shape != (manifest.deleted_count,):
        raise _damaged(folder, manifest.tombstones, f"it does not list {manifest.deleted_count:,} rows")
    present = np.ones(manifest.rows, dtype=np.bool_)
    present[deleted] = False
    return present


def verify_index(folder: Path | str) -> IndexManifest:
    """Compare size and checksum of every file with the manifest, and return it.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
    """
    manifest = read_manifest(folder)
    _verify_files(Path(folder), manifest, contents=True)
    return manifest


def _verify_files(folder: Path, manifest: IndexManifest, contents: bool) -> None:
    for name in (manifest.structure, manifest.doc_ids):
        if name not in manifest.files:
            raise _damaged(folder, name, "the manifest does not list it")
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, name, "it is missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise _damaged(folder, name, f"it has {size:,} bytes and {record.bytes:,} are recorded")
        read = contents or (name == manifest.structure and size <= ALWAYS_VERIFIED_BYTES)
        if read and sha256_file(path) != record.sha256:
            raise _damaged(folder, name, "its checksum is not the one recorded")


def _damaged(folder: Path, name: str, what: str) -> UserError:
    return UserError(
        f"The index is damaged in {folder / name}: {what}; repair it with `ibkd index --resume`, which encodes only "
        "what is not intact, or make it anew with `ibkd index --overwrite`."
    )
