"""A plain file of which each line is a document: several processes can read parts of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.columns import DOCUMENT, Fields, Reading
from ibkd_retrieval.corpora.formats import LONGEST_LINE, Place
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.corpora.tabular import documents_by, documents_within, expected_documents, has_lines
from ibkd_retrieval.errors import UserError

_BLOCK, _BLOCKS = 1 << 12, 17


@dataclass(frozen=True)
class LineFile:
    """A file as it was when it was opened.

    Attributes:
        path: the file.
        fields: the user's choice of fields.
        size: its size in bytes.
        modified: when it was changed last, in nanoseconds.
        sample: hash of some blocks of it (`sampled`).
        say_empty: reports the number of documents without text, and of all.
    """

    path: Path
    fields: Fields
    size: int
    modified: int
    sample: str
    say_empty: Callable[[int, int], None] = field(default=lambda empty, count: None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reports nothing.
        return LineFile, (self.path, self.fields, self.size, self.modified, self.sample)

    def is_unchanged(self) -> bool:
        """Whether this machine sees the file, as it was. A new time alone changes nothing.

        Whoever encodes documents compares them with their fingerprint, so that some blocks are enough here.
        """
        try:
            status = self.path.stat()
            same = status.st_size == self.size
            return same and (status.st_mtime_ns == self.modified or sampled(self.path, self.size) == self.sample)
        except OSError:
            return False

    def check(self) -> None:
        """Refuse a file that is no longer what it was.

        Raises:
            UserError: it was changed.
        """
        if not self.is_unchanged():
            raise self.changed()

    def changed(self) -> UserError:
        """The error for a file that is no longer what it was."""
        return UserError(f"{self.path} changed while it was read: run this again when it is complete.")

    def documents(self, place: Place) -> Iterator[Document]:
        """Read the documents of a part.

        Raises:
            UserError: a line is malformed, or the file was changed.
        """
        self.check()
        yield from documents_within(Reading(DOCUMENT, str(self.path), self.fields), self.path, place)
        self.check()

    def line_from(self, offset: int) -> int:
        """The offset of the first line that begins at `offset` or later."""
        if not offset:
            return 0
        with open(self.path, "rb") as file:
            file.seek(offset - 1)
            while (read := file.readline(LONGEST_LINE)) and not read.endswith(b"\n"):
                pass
            return file.tell()


def sampled(path: Path, size: int) -> str:
    """SHA-256 of the first, the last and 15 other blocks of 4 KiB of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for number in range(_BLOCKS):
            file.seek(max(0, size - _BLOCK) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def corpus_of_file(name: str, path: Path, reading: Reading) -> Corpus:
    """The documents of a file, or of a folder of texts, under a name."""

    def lines() -> LineFile | None:
        if not has_lines(path):
            return None
        status = path.stat()
        sample = sampled(path, status.st_size)
        return LineFile(path, reading.fields, status.st_size, status.st_mtime_ns, sample, reading.say_empty)

    fields = reading.fields
    return Corpus(name, None, lambda: documents_by(reading, path), lambda: expected_documents(path, fields), lines)
