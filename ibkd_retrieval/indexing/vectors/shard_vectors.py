"""Reads the vectors of an index from its shards, in order or by row."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.layout import vectors_file
from ibkd_retrieval.indexing.format.vectors import format_of, inner_products, nearest, row_type, unpack

_ROWS_WORTH_A_MAP = 64
"""From this many rows per shard on, a shard is mapped only while it is read, because touched pages count as memory."""


_OTHER_MAPS = 20_000
"""Memory maps that a process keeps for libraries, threads, and files of documents."""


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
        self._folder = folder
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

    def part(self, first: int, end: int) -> ShardRange:
        """The shards from number `first` to the one before `end`."""
        return ShardRange(self, first, end)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy the vectors of `rows` [m], in any order, into an array [m, dim]."""
        if 0 < len(rows) < _ROWS_WORTH_A_MAP * (len(self._starts) - 1):
            return unpack(self._taken(rows))
        return self.read(rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `gather`, for rows of a few shards: each is mapped only while it is read."""
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for places, packed in self._by_shard(rows):
            result[places] = unpack(packed)
        return result

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inner products [m] of the vectors of `rows` [m], in any order, with one query [dim]."""
        return inner_products(self._taken(rows), query) if len(rows) else np.empty(0, dtype=np.float32)

    def nearest(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k largest of these products, best first, and their positions. Equal ones are ordered by position."""
        return nearest(self._taken(rows), query, k)

    def check_maps(self) -> None:
        """Refuse more shards than this process may map, which reading single rows needs.

        Raises:
            UserError: there are more.
        """
        shards, most = len(self._starts) - 1, _most_maps() - _OTHER_MAPS
        if shards > most:
            raise UserError(
                f"The index in {self._folder} has {shards:,} shards, and a process maps up to {most:,} of them on this "
                f"machine: set the kernel's vm.max_map_count to at least {shards + _OTHER_MAPS:,} (sysctl), or make "
                "the index anew with a larger `shard_size`."
            )

    def place(self, row: int) -> tuple[int, int]:
        """The number of the shard that holds `row`, and its position there."""
        number = int(self._starts.searchsorted(row, side="right")) - 1
        return number, row - int(self._starts[number])

    def _taken(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of `rows` [m], at least one, as they are stored."""
        numbers = self._shards_of(rows)
        if self._mapped is None:
            self.check_maps()
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


class ShardRange:
    """The vectors of some shards of an index, block by block. Its rows begin at 0."""

    def __init__(self, vectors: ShardVectors, first: int, end: int) -> None:
        self._vectors, self._first, self._end = vectors, first, end
        self.dim = vectors.dim

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The shards in order, each read-only or a copy."""
        return islice(self._vectors.from_shard(self._first), self._end - self._first)


def _most_maps() -> int:
    """Memory maps that the system allows a process."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text("ascii"))
    except (OSError, ValueError):
        return 1 << 62  # Other systems have no such number.


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


_FAILED = ctypes.c_void_p(-1).value
_MAPPED_AROUND = 1 << 16
"""Bytes that the system maps around each row of a cached file."""

_UNMAPPED = np.iinfo(np.int64).min


class MappedRows:
    """Reads single rows of many files as one array, for the candidates of a search.

    A search reads a few hundred rows from hundreds of files. One or two calls per file cost several times as much as
    the reads. Here all files are mapped into memory, and one array spans the addresses from the first file to the last,
    with an element wherever a row could begin. Reading rows from all files is then one indexing operation.

    The maps are not made with Python's `mmap`, which keeps a descriptor for each. A process may have fewer open files
    than a large index has shards.

    Args:
        kind: numpy type of a row, a `void` of its size.
        find: function from a file number to the file's path and the byte where its first row begins.
        starts: number of the first row of each file, then the number of all rows.
        resident: approximate limit in bytes of pages that stay mapped. None is no limit. The system can take
            them back, but counts them as memory of the process.
    """

    def __init__(
        self,
        kind: np.dtype[Any],
        find: Callable[[int], tuple[Path, int]],
        starts: NDArray[np.int64],
        resident: int | None = None,
    ) -> None:
        self._kind = kind
        self._find = find
        self._starts = starts
        files = len(starts) - 1
        self._addresses = np.zeros(files, dtype=np.int64)
        # All rows begin at multiples of the grain.
        self._grain = math.gcd(kind.itemsize, 64)
        self._step = kind.itemsize // self._grain
        # The array over all files, and the place in it of row 0 of each file. They are replaced together, because
        # several threads may search.
        self._view: tuple[NDArray[Any], NDArray[np.int64]] = (np.empty(0, dtype=kind), np.full(files, _UNMAPPED))
        self._lock = threading.Lock()
        self._maps: list[tuple[int, int]] = []
        self._resident = resident
        self._touched = 0

    def take(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of `rows` [m], at least one, which lie in the files `numbers` [m]."""
        window, all_origins = self._view
        origins = all_origins[numbers]
        if origins.min() == _UNMAPPED:
            with self._lock:
                self._map(np.unique(numbers))
            window, all_origins = self._view
            origins = all_origins[numbers]
        taken: NDArray[Any] = window[origins + rows * self._step]
        if self._resident is not None:
            self._touched += len(rows) * _MAPPED_AROUND
            if self._touched > self._resident:
                self._let_go()
        return taken

    def _let_go(self) -> None:
        self._touched = 0
        for address, size in self._maps:
            _libc().madvise(address, size, mmap.MADV_DONTNEED)

    def _map(self, numbers: NDArray[np.int64]) -> None:
        for number in numbers[self._addresses[numbers] == 0].tolist():
            path, start = self._find(number)
            size = start + int(self._starts[number + 1] - self._starts[number]) * self._kind.itemsize
            if start % self._grain:
                raise ValueError(f"the rows of {path} begin at byte {start}, which is no multiple of {self._grain}")
            address = _mapped(path, size)
            weakref.finalize(self, _libc().munmap, address, size)
            self._maps.append((address, size))
            self._addresses[number] = address + start
        known = np.flatnonzero(self._addresses)
        addresses, sizes = self._addresses[known], np.diff(self._starts)[known] * self._kind.itemsize
        first = int(addresses.min())
        origins = np.full(len(self._addresses), _UNMAPPED)
        origins[known] = (addresses - first) // self._grain - self._starts[known] * self._step
        self._view = np.asarray(_Span(first, int((addresses + sizes).max()), self._kind, self._grain)), origins


class _Span:
    """Tells numpy of an array that begins at every `grain` bytes between two addresses.

    Between the files it spans addresses at which nothing is mapped; these are never read.
    """

    def __init__(self, first: int, end: int, kind: np.dtype[Any], grain: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (first, True),
            "typestr": f"|V{kind.itemsize}",
            "shape": (max(0, (end - first - kind.itemsize) // grain + 1),),
            "strides": (grain,),
        }


def _mapped(path: Path, size: int) -> int:
    """Map the first bytes of a file and give the address."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < size:
            raise OSError(f"{path} is shorter than {size:,} bytes")  # Reading beyond its end would end the process.
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if address in (None, _FAILED):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int(address)


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library
