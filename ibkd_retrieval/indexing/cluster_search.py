"""Searches an index on the nodes of a cluster: each a part of it, or a part of the queries."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.cluster import Cluster, connected
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss, read_mapped
from ibkd_retrieval.indexing.families.search_params import search_structure
from ibkd_retrieval.indexing.format.layout import MANIFEST
from ibkd_retrieval.indexing.format.manifest import IndexManifest
from ibkd_retrieval.indexing.vectors.exact import Found, better_of, rescore, scan
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors

QUERIES_AT_ONCE = 8192
"""Queries that are sent to the nodes at once. It bounds what comes back: k results for each from each part."""

_QUERY_BLOCK = 1024
_LEAST_ROWS, _MOST_PIECES = 1 << 16, 256


class Piece(NamedTuple):
    """What one process does.

    Attributes:
        file: the faiss file that is searched. None compares all vectors.
        rows: the first of the rows that are compared, and the one after the last. A file has its own.
        shards: the shards of these rows, likewise.
        queries: the queries that are searched for, likewise.
    """

    file: str | None
    rows: tuple[int, int]
    shards: tuple[int, int]
    queries: tuple[int, int]


@dataclass(frozen=True)
class Asked:
    """What is asked of every piece of an index.

    Attributes:
        folder: the index folder, as the nodes see it.
        manifest: SHA-256 of the manifest there.
        counts: documents in each shard.
        dim: length of a vector.
        k: number of results.
        params: search parameters of the structure. Candidates are refined on the node, if they say so.
    """

    folder: str
    manifest: str
    counts: tuple[int, ...]
    dim: int
    k: int
    params: SearchParams


_opened: dict[tuple[str, str, str], Any] = {}
"""The faiss index of this process, kept for its next queries, by folder, manifest and file."""


def search_piece(asked: Asked, queries: NDArray[np.float32], allowed: NDArray[np.uint8] | None, piece: Piece) -> Found:
    """Search one piece of an index. It runs in a process of a node.

    Args:
        asked: what is asked.
        queries: all queries [q, dim].
        allowed: a bit for each row of the index, set for rows that may be found. None is all rows.
        piece: what is searched here.

    Returns:
        Scores and rows [queries of the piece, k], padded with -inf and -1.

    Raises:
        UserError: this node does not see the folder, another index is in it, or a file is damaged.
    """
    folder = Path(asked.folder)
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"There is no index in {folder}: give the nodes a folder that they share, or search without `cluster`."
        )
    blas_threshold(asked.dim)
    vectors = ShardVectors(folder, asked.counts, asked.dim)
    answers = []
    for start in range(*piece.queries, _QUERY_BLOCK):
        block = queries[start : min(start + _QUERY_BLOCK, piece.queries[1])]
        if piece.file is None:
            found = _compared(block, vectors, asked.k, allowed, piece)
        else:
            index, selector = _structure(asked, piece.file), None
            if allowed is not None:
                selector = load_faiss().IDSelectorBitmap(allowed)
            found = search_structure(index, block, asked.k, asked.params, vectors, selector)
        answers.append(found)
    scores, rows = (np.concatenate(each) for each in zip(*answers, strict=True))
    return np.where(rows < 0, np.float32(-np.inf), scores), rows


def _compared(
    queries: NDArray[np.float32], vectors: ShardVectors, k: int, allowed: NDArray[np.uint8] | None, piece: Piece
) -> Found:
    """The k best of a range of shards by exact score, padded where the range has fewer."""
    first, end = piece.rows
    mask = None
    if allowed is not None:
        bits = np.unpackbits(allowed[first // 8 : -(-end // 8)], bitorder="little")
        mask = bits[first % 8 : first % 8 + end - first].astype(np.bool_)
    found = min(k, end - first if mask is None else int(np.count_nonzero(mask)))
    scores, rows = scan(queries, vectors.part(*piece.shards), found, mask)
    padding = ((0, 0), (0, k - rows.shape[1]))
    return (
        np.pad(scores, padding, constant_values=-np.inf),
        np.pad(rows + first, padding, constant_values=-1),
    )


def _structure(asked: Asked, file: str) -> Any:
    key = (asked.folder, asked.manifest, file)
    if key not in _opened:
        folder = Path(asked.folder)
        if sha256_file(folder / MANIFEST) != asked.manifest:
            raise UserError(f"The index in {folder} was changed while it was searched: search again.")
        _opened.clear()
        try:
            _opened[key] = read_mapped(folder / file)
        except RuntimeError as error:
            raise UserError(
                f"faiss cannot read {folder / file}: check the index with `describe(verify=True)`."
            ) from error
    return _opened[key]


class NodeSearch:
    """Searches an index on the nodes of a cluster.

    Attributes:
        exact_merge: whether candidates of all parts are merged before they are refined.
    """

    def __init__(self, cluster: Cluster, folder: Path, manifest: IndexManifest, *, exact_merge: bool = False) -> None:
        self._cluster = cluster
        self._manifest = manifest
        self.exact_merge = exact_merge
        self._folder = folder.resolve()
        self._digest = sha256_file(folder / MANIFEST)
        self._counts = tuple(shard.documents for shard in manifest.shards)

    def connected(self) -> AbstractContextManager[None]:
        """A connection to the cluster. When the last one is closed, the processes on the nodes end."""
        return connected(self._cluster.address)

    def compare(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None) -> Found:
        """The k best rows of each query by exact score, as `exact.scan` finds them."""
        return self._searched(queries, k, SearchParams(), allowed, self._ranges(len(queries)))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        params: SearchParams,
        vectors: ShardVectors,
        allowed: NDArray[np.bool_] | None,
    ) -> Found:
        """The k best rows of each query by the structure, as `search_structure` finds them.

        Candidates are refined where their part is searched, so that each part refines as many as one structure does.
        With `exact_merge` they come back and are refined here: those are the ones that one structure refines.
        """
        pieces = self._pieces(len(queries))
        if not (self.exact_merge and params.refine and self._manifest.parts):
            return self._searched(queries, k, params, allowed, pieces)
        candidates = min(k * max(1, params.refine), vectors.count)
        rows = self._searched(queries, candidates, replace(params, refine=0), allowed, pieces)[1]
        return rescore(queries, rows, vectors, k)

    def _ranges(self, queries: int) -> list[Piece]:
        """Ranges of shards with about as many rows each."""
        ends = np.cumsum(self._counts)
        height = max(_LEAST_ROWS, int(ends[-1]) // _MOST_PIECES)
        pieces, first, start = [], 0, 0
        for number, end in enumerate(ends.tolist(), 1):
            if end - start >= height or number == len(ends):
                pieces.append(Piece(None, (start, end), (first, number), (0, queries)))
                first, start = number, end
        return pieces

    def _pieces(self, queries: int) -> list[Piece]:
        """The parts of the structure, or of a structure in one file some of the queries each."""
        whole = ((0, self._manifest.rows), (0, len(self._counts)))
        if self._manifest.parts:
            return [Piece(part.file, *whole, (0, queries)) for part in self._manifest.parts]
        starts = range(0, queries, _QUERY_BLOCK)
        file = self._manifest.structure
        return [Piece(file, *whole, (start, min(start + _QUERY_BLOCK, queries))) for start in starts]

    def _searched(
        self,
        queries: NDArray[np.float32],
        k: int,
        params: SearchParams,
        allowed: NDArray[np.bool_] | None,
        pieces: list[Piece],
    ) -> Found:
        asked = Asked(str(self._folder), self._digest, self._counts, self._manifest.dim, k, params)
        packed = None if allowed is None else np.packbits(allowed, bitorder="little")
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        running = self._cluster.run(
            search_piece,
            iter(pieces),
            given=lambda piece: (piece,),
            called=_called,
            common=(asked, queries, packed),
            doing="Searching",
            process="search process",
            resumes=False,
        )
        with closing(running):
            for piece, found, _ in running:
                own = slice(*piece.queries)
                scores[own], rows[own] = better_of((scores[own], rows[own]), found, k)
        return scores, rows


def _called(piece: Piece) -> str:
    if piece.file is None:
        return f"The search of shards {piece.shards[0]} to {piece.shards[1] - 1}"
    return f"The search of {piece.file} for queries {piece.queries[0] + 1:,} to {piece.queries[1]:,}"
