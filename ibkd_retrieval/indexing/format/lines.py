"""A file of lines with random access to each line."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write


def save_array(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write `array` as `np.save` does, byte for byte.

    `np.save` writes past the Python file, and a full disk is then an error without a number or a name.

    Raises:
        OSError: the disk is full or fails.
    """
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    if array.size:
        file.write(array.reshape(-1).view(np.uint8).data)


_AT_ONCE = 64
"""Lines that are written in one piece."""
_STRETCH = 1 << 14
_DENSE = 8
"""A range of lines is decoded whole if at least one line in this many is wanted."""


def offsets_path(path: Path) -> Path:
    """Path of the offsets of the line file `path`."""
    return path.with_name(f"{path.name}.offsets.npy")


def write_lines(path: Path, lines: Iterable[str | bytes]) -> int:
    r"""Write UTF-8 lines, each ended by "\n", and beside them their offsets: int64 [n + 1], the last is the size.

    Args:
        path: the file of lines; the offsets go to `PATH.offsets.npy`.
        lines: the lines as text or as UTF-8, read once as a stream.

    Returns:
        The number of lines.

    Raises:
        ValueError: a line holds a line feed or text that UTF-8 has no bytes for (a lone surrogate).
    """
    sizes = array("q", [0])
    unread = iter(lines)
    with atomic_write(path) as file:
        while batch := [line.encode() if isinstance(line, str) else line for line in islice(unread, _AT_ONCE)]:
            data = b"\n".join(batch)
            if data.count(b"\n") >= len(batch):
                bad = next(i for i, line in enumerate(batch) if b"\n" in line)
                raise ValueError(f"line {len(sizes) + bad} for {path} holds a line feed")
            file.write(data)
            file.write(b"\n")
            sizes.extend(len(line) + 1 for line in batch)
    with atomic_write(offsets_path(path)) as file:
        save_array(file, np.cumsum(sizes, dtype=np.int64))
    return len(sizes) - 1


class LineStore:
    """The lines of a file made by `write_lines`, read on demand through memory maps."""

    def __init__(self, path: Path) -> None:
        """Open `path` and its offsets.

        Raises:
            UserError: one of the two is missing, or they do not belong together.
        """
        self.path = path
        try:
            # As a plain array on the same map: a memmap takes five times as long to index.
            self._offsets: NDArray[np.int64] = np.asarray(
                np.load(offsets_path(path), mmap_mode="r", allow_pickle=False)
            )
            size = path.stat().st_size
            if self._offsets.dtype != np.int64 or self._offsets.ndim != 1 or self._offsets[-1] != size:
                raise ValueError("its offsets belong to another file")
            with open(path, "rb") as file:
                # An empty file cannot be mapped.
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}): the index is damaged, make it again.") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, line: int) -> str:
        """Line number `line`, counted from 0, without its end."""
        if not 0 <= line < len(self):
            raise IndexError(f"line {line} of {len(self)} in {self.path}")
        first, last = self._offsets[line : line + 2].tolist()
        return self._bytes[first : last - 1].decode("utf-8")

    def lines(self, numbers: NDArray[np.int64]) -> list[str]:
        """The lines of ascending `numbers` [m]. Dense ranges are decoded in one piece."""
        found: list[str] = []
        if len(numbers) and not 0 <= numbers[0] <= numbers[-1] < len(self):
            raise IndexError(f"lines {numbers[0]} to {numbers[-1]} of {len(self)} in {self.path}")
        ends = np.searchsorted(numbers, np.arange(_STRETCH, len(self) + _STRETCH, _STRETCH))
        for start, here in zip(range(0, len(self), _STRETCH), np.split(numbers, ends[:-1]), strict=True):
            stop = min(start + _STRETCH, len(self))
            if len(here) * _DENSE >= stop - start:
                stretch = self._bytes[self._offsets[start] : self._offsets[stop]].decode("utf-8").split("\n")
                found += map(stretch.__getitem__, (here - start).tolist())
            else:
                bounds = zip(self._offsets[here].tolist(), self._offsets[here + 1].tolist(), strict=True)
                found += [self._bytes[first : last - 1].decode("utf-8") for first, last in bounds]
        return found

    def __iter__(self) -> Iterator[str]:
        # Read through the map, because the path may name the file of another index by now.
        return map(self.__getitem__, range(len(self)))
