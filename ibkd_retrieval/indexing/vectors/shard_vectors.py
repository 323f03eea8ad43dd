"""Reads the vectors of an index from its shards, in order or by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.layout import vectors_file
from ibkd_retrieval.indexing.format.vectors import format_of, inner_products, row_type, unpack
from ibkd_retrieval.indexing.vectors.mapped import MappedRows

_ROWS_WORTH_A_MAP = 64
"""Rows wanted of a shard from which its map is not kept: touched pages count as memory for as long as it is open."""


class ShardVectors:
    """The float32 vectors [n, dim] of an index, memory-mapped shard by shard.

    Shards stored in another format (`vector_formats`) are given as float32, which is then a copy.

    Args:
        folder: the index folder.
        counts: documents in each shard.
        dim: length of a vector.
        resident: approximate limit in bytes of file pages that stay mapped for single rows. None is no limit.
        check: called with the name of each file before it is opened. It raises to refuse the file.

    Attributes:
        count: number of vectors n.
        dim: length of a vector.
    """

    def __init__(
        self,
        folder: Path,
        counts: Sequence[int],
        dim: int,
        resident: int | None = None,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.count = sum(counts)
        self.dim = dim
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._open = partial(_open_vectors, folder, tuple(counts), dim, check)
        self._mapped: MappedRows | None = None
        self._format = ""
        self._resident = resident

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The shards in order, each read-only or a copy. Earlier shards are released."""
        return self.from_shard(0)

    def from_shard(self, first: int) -> Iterator[NDArray[np.float32]]:
        """The shards from number `first` on, as iterating gives them."""
        for number in range(first, len(self._starts) - 1):
            yield unpack(self._open(number).view(np.ndarray))

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the vectors of `rows` [m], in any order, into an array [m, dim]."""
        if not 0 < len(rows) < _ROWS_WORTH_A_MAP * (len(self._starts) - 1):
            result = np.empty((len(rows), self.dim), dtype=np.float32)
            for places, packed in self._by_shard(rows):
                result[places] = unpack(packed)
            return result
        return unpack(self._taken(rows))

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner products [m] of the vectors of `rows` [m], in any order, with one query [dim]."""
        return inner_products(self._taken(rows), query) if len(rows) else np.empty(0, dtype=np.float32)

    def place(self, row: int) -> tuple[int, int]:
        """The number of the shard that holds `row`, and its position there."""
        number = int(self._starts.searchsorted(row, side="right")) - 1
        return number, row - int(self._starts[number])

    def _taken(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of `rows` [m], at least one, as they are stored."""
        numbers = self._shards_of(rows)
        if self._mapped is None:
            self._format = str(format_of(self._open(int(numbers[0])), self.dim))
            kind, shape = row_type(self._format, self.dim)
            whole = np.dtype((np.void, kind.itemsize * int(np.prod(shape, dtype=np.int64))))
            find = partial(_place, self._open, self._format, self.dim)
            self._mapped = MappedRows(whole, find, self._starts, self._resident)
        kind, shape = row_type(self._format, self.dim)
        return self._mapped.take(numbers, rows).view(kind).reshape(len(rows), *shape)

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Copies of `rows` [m] as they are stored, shard by shard, each with their places among the m."""
        if not len(rows):
            return
        numbers = self._shards_of(rows)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(len(self._starts)))
        for number in np.flatnonzero(np.diff(ends)).tolist():
            places = order[ends[number] : ends[number + 1]]
            # Taking a row of a memmap costs ten times what taking one of a plain array does.
            yield places, self._open(number).view(np.ndarray)[rows[places] - self._starts[number]]

    def _shards_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if rows.min() < 0 or rows.max() >= self.count:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.count}")
        return self._starts.searchsorted(rows, side="right") - 1


def _place(opened: Any, name: str, dim: int, number: int) -> tuple[Path, int]:
    """Where the rows of a shard's file begin.

    Raises:
        UserError: they are of another format than those of the other shards.
    """
    vectors = opened(number)
    path = Path(vectors.filename)
    if format_of(vectors, dim) != name:
        raise UserError(
            f"{path} holds {vectors.dtype} among shards of {name}: repair it with `build_index(resume=True)`."
        )
    return path, int(vectors.offset)


def _open_vectors(
    folder: Path, counts: tuple[int, ...], dim: int, check: Callable[[str], None] | None, number: int
) -> np.memmap[Any, Any]:
    if check is not None:
        check(vectors_file(number))
    path = folder / vectors_file(number)
    try:
        vectors: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): repair the index with `build_index(resume=True)`."
        ) from error
    if vectors.shape[:1] != (counts[number],) or format_of(vectors, dim) is None:
        raise UserError(
            f"{path} holds {vectors.dtype} {vectors.shape} where {counts[number]} vectors of {dim} dimensions are due: "
            "repair the index with `build_index(resume=True)`."
        )
    return vectors
