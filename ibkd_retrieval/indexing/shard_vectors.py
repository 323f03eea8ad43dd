"""The vectors of an index, read from its shards: in order, or single rows out of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.layout import vectors_file
from ibkd_retrieval.indexing.mapped_rows import MappedRows
from ibkd_retrieval.indexing.vector_formats import FORMATS, format_of, inner_products, row_type, unpack

_ROWS_WORTH_A_MAP = 64
"""Rows wanted of a shard from which its map is not kept: touched pages count as memory for as long as it is open."""


class ShardVectors:
    """The float32 vectors [n, dim] of an index, memory-mapped shard by shard.

    Shards stored in another format (`vector_formats`) are given as float32, which is then a copy.

    Attributes:
        count: number of vectors n.
        dim: length of a vector.
    """

    def __init__(self, folder: Path, counts: Sequence[int], dim: int) -> None:
        self.count = sum(counts)
        self.dim = dim
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._open = partial(_open_vectors, folder, tuple(counts), dim)
        sizes = np.array(counts, dtype=np.int64)
        # A merged index may hold shards of several formats.
        self._formats = np.full(len(counts), -1, dtype=np.int8)
        self._mapped = [MappedRows(_row_kind(name, dim), partial(_place, self._open), sizes) for name in FORMATS]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The shards in order, each read-only or a copy; those given before are let go of."""
        return self.from_shard(0)

    def from_shard(self, first: int) -> Iterator[NDArray[np.float32]]:
        """The shards from number `first` on, as iterating gives them."""
        for number in range(first, len(self._starts) - 1):
            yield unpack(self._open(number).view(np.ndarray))

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the vectors of `rows` [m], in any order, into an array [m, dim]."""
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for places, packed in self._packed(rows):
            result[places] = unpack(packed)
        return result

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner products [m] of the vectors of `rows` [m], in any order, with one query [dim]."""
        result = np.empty(len(rows), dtype=np.float32)
        for places, packed in self._packed(rows):
            result[places] = inner_products(packed, query)
        return result

    def place(self, row: int) -> tuple[int, int]:
        """The number of the shard that holds `row`, and its position there."""
        number = int(self._starts.searchsorted(row, side="right")) - 1
        return number, row - int(self._starts[number])

    def _packed(self, rows: NDArray[np.int64]) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Copies of `rows` [m] as they are stored, by format or by shard, each with their places among the m."""
        if not len(rows):
            return
        if rows.min() < 0 or rows.max() >= self.count:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.count}")
        numbers = self._starts.searchsorted(rows, side="right") - 1
        positions = rows - self._starts[numbers]
        if len(rows) >= _ROWS_WORTH_A_MAP * len(self._formats):
            yield from self._by_shard(numbers, positions)
            return
        formats = self._formats[numbers]
        if (formats < 0).any():
            for number in np.unique(numbers[formats < 0]).tolist():
                self._formats[number] = FORMATS.index(str(format_of(self._open(number), self.dim)))
            formats = self._formats[numbers]
        for kind in np.unique(formats).tolist():
            places = np.flatnonzero(formats == kind)
            row, shape = row_type(FORMATS[kind], self.dim)
            taken = self._mapped[kind].take(numbers[places], positions[places])
            yield places, taken.view(row).reshape(len(places), *shape)

    def _by_shard(self, numbers: NDArray[np.int64], positions: NDArray[np.int64]) -> Iterator[tuple[Any, NDArray[Any]]]:
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(len(self._formats) + 1))
        for number in np.flatnonzero(np.diff(ends)).tolist():
            places = order[ends[number] : ends[number + 1]]
            # Taking a row of a memmap costs ten times what taking one of a plain array does.
            yield places, self._open(number).view(np.ndarray)[positions[places]]


def _row_kind(name: str, dim: int) -> np.dtype[Any]:
    kind, shape = row_type(name, dim)
    return np.dtype((np.void, kind.itemsize * int(np.prod(shape, dtype=np.int64))))


def _place(opened: Any, number: int) -> tuple[Path, int]:
    """Where the rows of a shard's file begin."""
    vectors = opened(number)
    return Path(vectors.filename), int(vectors.offset)


def _open_vectors(folder: Path, counts: tuple[int, ...], dim: int, number: int) -> np.memmap[Any, Any]:
    path = folder / vectors_file(number)
    try:
        vectors: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): repair the index with `ibkd index --resume`.") from error
    if vectors.shape[:1] != (counts[number],) or format_of(vectors, dim) is None:
        raise UserError(
            f"{path} holds {vectors.dtype} {vectors.shape} where {counts[number]} vectors of {dim} dimensions are due: "
            "repair the index with `ibkd index --resume`."
        )
    return vectors
