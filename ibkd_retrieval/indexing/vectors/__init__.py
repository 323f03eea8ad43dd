"""Sources of the vectors of an index: the protocol, and an array in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.format.vectors import nearest


class VectorBlocks(Protocol):
    """Float32 vectors of length `dim`, read block by block."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, block by block."""


class VectorSource(VectorBlocks, Protocol):
    """Float32 vectors [count, dim], read block by block or by row. `shard_vectors.ShardVectors` is one."""

    @property
    def count(self) -> int:
        """Number of vectors."""

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the vectors of `rows` [m], in any order, into an array [m, dim]."""

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner products [m] of the vectors of `rows` [m], in any order, with one query [dim]."""

    def nearest(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k largest of these products, best first, and their positions. Equal ones are ordered by position."""


class ArrayVectors:
    """A `VectorSource` of an array [count, dim] in memory."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors
        self.count, self.dim = vectors.shape

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The array as the only block."""
        yield self._vectors

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the vectors of `rows`."""
        return self._vectors[rows]

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner products of the vectors of `rows` with a query."""
        return np.asarray(self._vectors[rows] @ query, dtype=np.float32)

    def nearest(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k largest of these products, and their positions."""
        return nearest(self._vectors[rows], query, k)


def sample_rows(count: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Up to `size` of `count` rows, drawn at random without replacement, in ascending order."""
    return np.sort(generator.choice(count, min(size, count), replace=False)).astype(np.int64)
