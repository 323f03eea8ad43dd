"""Single rows of many files as one array: what the candidates of a search are read through.

A search wants a few hundred rows, each from another place of hundreds of files. Taken file by file, that costs a call
or two each, several times what reading the rows costs. Here the files lie in the address space of the process, and one
array spans all of it from the first file to the last, with an element wherever a row could begin; taking rows out of
all files is then one indexing operation.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_void_p(-1).value


class MappedRows:
    """Rows of equal size in many files, mapped into memory as they are wanted.

    The maps are made without Python's `mmap`, which keeps a descriptor for each: a process may have far fewer open
    files than a large index has shards.

    Args:
        kind: numpy type of a row.
        find: gives the path of file `number` and the place in it, in bytes, of its first row.
        counts: rows in each file.
    """

    def __init__(self, kind: np.dtype[Any], find: Callable[[int], tuple[Path, int]], counts: NDArray[np.int64]) -> None:
        self._kind = kind
        self._find = find
        self._counts = counts
        self._addresses = np.zeros(len(counts), dtype=np.int64)
        self._window: NDArray[Any] = np.empty(0, dtype=kind)
        self._first = 0
        # Rows begin at multiples of this, whatever lies before the first of a file.
        self._grain = math.gcd(kind.itemsize, 64)

    def take(self, numbers: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of the rows at `positions` [m] of the files `numbers` [m]."""
        addresses = self._addresses[numbers]
        if not addresses.all():
            self._map(np.unique(numbers[addresses == 0]).tolist())
            addresses = self._addresses[numbers]
        places = (addresses - self._first) // self._grain + positions * (self._kind.itemsize // self._grain)
        taken: NDArray[Any] = self._window[places]
        return taken

    def _map(self, numbers: list[int]) -> None:
        for number in numbers:
            path, start = self._find(number)
            size = start + int(self._counts[number]) * self._kind.itemsize
            if start % self._grain:
                raise ValueError(f"the rows of {path} begin at byte {start}, which is no multiple of {self._grain}")
            address = _mapped(path, size)
            weakref.finalize(self, _libc().munmap, address, size)
            self._addresses[number] = address + start
        known = np.flatnonzero(self._addresses)
        self._first = int(self._addresses[known].min())
        end = int((self._addresses[known] + self._counts[known] * self._kind.itemsize).max())
        self._window = np.asarray(_Span(self._first, end, self._kind, self._grain))


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


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
