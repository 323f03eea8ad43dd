"""The vectors that an endpoint was paid for, by text: each answer is written down before the next is asked for.

A folder per model has two files, which only grow:

- `vectors.f32`: unit vectors, float32, one after the other.
- `keys.bin`: for each of them 16 bytes, the hash of the text and its kind, and 4 bytes, the CRC-32 of the vector.

A vector is there if its key is, which is written after it. What a killed run left behind the last whole key is
overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.files import make_folder

_KEY, _CHECK = 16, 4
_ENTRY = _KEY + _CHECK


def key_of(text: str, kind: str) -> bytes:
    """The hash of a text as it is sent, and of what the endpoint is told of it."""
    return hashlib.blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=_KEY).digest()


class PaidVectors:
    """The vectors in a folder."""

    def __init__(self, folder: Path, dim: int) -> None:
        """Open the folder, or prepare to make it."""
        self._keys_path, self._vectors_path = folder / "keys.bin", folder / "vectors.f32"
        self._bytes = 4 * dim
        self._rows: dict[bytes, tuple[int, bytes]] = {}
        self._read = 0
        self._refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def _refresh(self) -> None:
        """Read the keys that were added since, by this process or another."""
        if not self._keys_path.is_file():
            return
        with open(self._keys_path, "rb") as file:
            file.seek(self._read * _ENTRY)
            content = file.read()
        for start in range(0, len(content) - _ENTRY + 1, _ENTRY):
            entry = content[start : start + _ENTRY]
            self._rows[entry[:_KEY]] = self._read, entry[_KEY:]
            self._read += 1

    def get(self, keys: Sequence[bytes], out: NDArray[np.float32]) -> list[int]:
        """Fill the rows of `out` [n, dim] that are known, and return the positions of the others.

        A damaged vector is not known.
        """
        missing = [place for place, key in enumerate(keys) if key not in self._rows]
        if len(missing) == len(keys):
            return missing
        with open(self._vectors_path, "rb") as file:
            for place, key in enumerate(keys):
                if key not in self._rows:
                    continue
                row, check = self._rows[key]
                file.seek(row * self._bytes)
                content = file.read(self._bytes)
                if len(content) != self._bytes or zlib.crc32(content).to_bytes(_CHECK, "little") != check:
                    missing.append(place)
                    continue
                out[place] = np.frombuffer(content, dtype="<f4")
        return sorted(missing)

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write vectors [n, dim] and then their keys, each to the disk before the next."""
        contents = [row.astype("<f4").tobytes() for row in vectors]
        checks = [zlib.crc32(each).to_bytes(_CHECK, "little") for each in contents]
        make_folder(self._keys_path.parent)
        with _held(self._keys_path) as file:
            whole = os.fstat(file).st_size // _ENTRY
            _write(self._vectors_path, whole * self._bytes, b"".join(contents))
            os.pwrite(file, b"".join(k + c for k, c in zip(keys, checks, strict=True)), whole * _ENTRY)
            os.ftruncate(file, (whole + len(keys)) * _ENTRY)
            os.fsync(file)
            self._refresh()


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """Open a file for writing, held against other processes and threads."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, start: int, content: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], start + written)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
