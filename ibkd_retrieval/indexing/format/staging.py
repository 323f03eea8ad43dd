"""Files that other machines write into an index folder, for the build to take.

A node writes into `staging/NUMBER-UUID`, where nobody else writes. Only the build moves a file to its place. What comes
after the build has gone on without it is no part of the index.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.line_file import LineFile
from ibkd_retrieval.files import atomic_write, make_folder, sha256_file, sync_directory
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import offsets_path, save_array, write_lines
from ibkd_retrieval.indexing.format.manifest import FileRecord
from ibkd_retrieval.indexing.format.vectors import pack

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class StagedFile(NamedTuple):
    """A whole file in a staging folder.

    Attributes:
        path: where it is.
        record: its size and checksum.
    """

    path: Path
    record: FileRecord

    @classmethod
    def at(cls, path: Path) -> StagedFile:
        """Measure a file."""
        return cls(path, FileRecord(path.stat().st_size, sha256_file(path)))

    def move_to(self, path: Path) -> FileRecord:
        """Put it in its place."""
        make_folder(path.parent)
        os.replace(self.path, path)
        sync_directory(path.parent)
        return self.record


class StagedVectors(NamedTuple):
    """The vectors of a shard in a staging folder.

    Attributes:
        file: the file.
        shape: (n, dim).
    """

    file: StagedFile
    shape: tuple[int, ...]


class StagedLines(NamedTuple):
    """The documents of a shard in a staging folder.

    Attributes:
        lines: the file of the documents.
        offsets: the file of their offsets.
        ids: the file of their ids.
    """

    lines: StagedFile
    offsets: StagedFile
    ids: StagedFile


@dataclass(frozen=True)
class Staging:
    """The staging folder of a build. It is made by `open`.

    Attributes:
        folder: the index folder.
        vector_format: format of the stored vectors.
        corpus: the file of the corpus, if each line of it is a document.
        token: a random text that a node finds there if it sees the same folder.
    """

    folder: Path
    vector_format: str = "float32"
    corpus: LineFile | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def open(self) -> Staging:
        """Make the folder, and the file that nodes look for."""
        if not self._probe.exists():
            with atomic_write(self._probe) as file:
                file.write(self.token.encode())
        return self

    @property
    def _probe(self) -> Path:
        return self.folder / layout.STAGING / f"{layout.PROBE}-{self.token}"

    def is_visible(self) -> bool:
        """Whether this machine sees the folder. Each process looks once."""
        return _is_visible(self._probe, self.token)

    def write(self, number: int, save: Callable[[IO[bytes]], None]) -> StagedFile | None:
        """Write a file, durably. None where this machine may not write there.

        Raises:
            OSError: the disk is full or fails, or the build has ended and removed the folder.
        """
        own = self._own_folder(number)
        if own is None:
            return None
        path = own / "file"
        with open(path, "xb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(own)
        return StagedFile.at(path)

    def _own_folder(self, number: int) -> Path | None:
        own = self.folder / layout.STAGING / f"{number:05d}-{uuid.uuid4().hex}"
        try:
            own.mkdir()  # Never with its parents: a build that has ended has no staging folder.
        except OSError as error:
            if error.errno in _UNWRITABLE:
                return None
            raise
        return own

    def write_vectors(self, number: int, vectors: NDArray[np.float32]) -> StagedVectors | NDArray[np.float32]:
        """Write the vectors [n, dim] of a shard. They are returned where this machine cannot, or they are not finite.

        Raises:
            UserError: the vector format cannot hold them.
            OSError: the disk is full or fails.
        """
        # The build says which document it is.
        if not self.is_visible() or not np.isfinite(vectors).all():
            return vectors
        packed = pack(vectors, self.vector_format)
        file = self.write(number, lambda file: save_array(file, packed))
        return vectors if file is None else StagedVectors(file, vectors.shape)

    def write_lines(self, number: int, lines: Iterable[bytes], ids: bytes) -> StagedLines | None:
        """Write the documents of a shard, a line each, and their ids. None where this machine cannot.

        Raises:
            OSError: the disk is full or fails.
        """
        own = self._own_folder(number) if self.is_visible() else None
        if own is None:
            return None
        path = own / "file"
        write_lines(path, lines)
        with atomic_write(own / "ids") as file:
            file.write(ids)
        return StagedLines(*map(StagedFile.at, (path, offsets_path(path), own / "ids")))


@contextmanager
def staging_for(folder: Path, vector_format: str, corpus: LineFile | None = None) -> Iterator[Staging]:
    """The staging folder for a build, which need not be opened. It is removed at the end."""
    try:
        yield Staging(Path(os.path.abspath(folder)), vector_format, corpus)
    finally:
        with suppress(OSError):  # A node may still write. `resume` removes what is left.
            layout.remove_staging(folder)


@functools.cache
def _is_visible(probe: Path, token: str) -> bool:
    try:
        return probe.read_text("ascii") == token
    except (OSError, UnicodeDecodeError):
        return False
