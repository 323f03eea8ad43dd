"""Reads single rows of many files as one array, for the candidates of a search.

A search reads a few hundred rows from hundreds of files. One or two calls per file cost several times as much as the
reads. Here all files are mapped into memory, and one array spans the addresses from the first file to the last, with
an element wherever a row could begin. Reading rows from all files is then one indexing operation.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_void_p(-1).value
_MAPPED_AROUND = 1 << 16
"""Bytes around a row that the system maps with it where the file is in its cache."""

_UNMAPPED = np.iinfo(np.int64).min


class MappedRows:
    """Rows of equal size in many files, mapped into memory as they are wanted.

    The maps are made without Python's `mmap`, which keeps a descriptor for each: a process may have far fewer open
    files than a large index has shards.

    Args:
        kind: numpy type of a row, a `void` of its size.
        find: gives the path of file `number` and the place in it, in bytes, of its first row.
        starts: number of the first row of each file, and last the number of all rows.
        resident: about how many bytes of the files may stay mapped; None for all that were touched. They are no memory
            that the system could not take back, but are counted as the process's.
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
        # Rows begin at multiples of the grain, whatever lies before the first of a file.
        self._grain = math.gcd(kind.itemsize, 64)
        self._step = kind.itemsize // self._grain
        # The array over all files, and where in it row 0 of each would be: replaced together, as threads may search at
        # once.
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
