"""Reads a file of lines in several processes, and cuts it into the shards that a single reader cuts.

The processes check and measure the documents. The texts stay in the file, from which whoever encodes a shard reads it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.columns import is_empty
from ibkd_retrieval.corpora.formats import Place
from ibkd_retrieval.corpora.line_file import LineFile
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import Failure, UserError, WorkFailed
from ibkd_retrieval.indexing.building.pipeline import answering
from ibkd_retrieval.indexing.building.plan import Fingerprint, fingerprint, fingerprinted_document, hash_id

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LEAST_BYTES = 32 << 20
"""Smaller files are read by one process."""
RANGE_BYTES = 4 << 20
"""Bytes of a file that are read at once."""
_MOST_READERS = 8


@dataclass(frozen=True)
class FileDocuments(Sequence[Document]):
    """The documents of a shard, which are read from their file whenever they are asked for.

    Attributes:
        file: the file.
        start: offset of the first document's line.
        length: number of documents.
        fingerprint: fingerprint of the documents.
    """

    file: LineFile
    start: int
    length: int
    fingerprint: str

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Document]:
        return islice(self.file.documents(_place(self.start)), self.length)

    @overload
    def __getitem__(self, position: int) -> Document: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Document]: ...
    def __getitem__(self, position: int | slice) -> Document | Sequence[Document]:
        return self.read()[position]

    def read(self) -> list[Document]:
        """Read the documents.

        Raises:
            UserError: they are not those that were counted.
        """
        documents = list(self)
        if fingerprint(documents) != self.fingerprint:
            raise self.file.changed()
        return documents


class Piece(NamedTuple):
    """A shard that was cut from a corpus.

    Attributes:
        documents: the documents.
        fingerprint: fingerprint of the documents.
        hashes: sorted hashes of their ids (`plan.hash_id`). None if the ids are not checked yet.
    """

    documents: Sequence[Document]
    fingerprint: str
    hashes: NDArray[np.uint64] | None = None


class Scanned(NamedTuple):
    """What a process found in a range of a file. Arrays have an entry for each document.

    Attributes:
        offsets: offsets of the lines.
        characters: numbers of characters.
        hashes: hashes of the ids. None if an id cannot be hashed.
        ends: where each document ends in `content`.
        content: what the fingerprint is the hash of.
        lines: number of lines, blank ones included.
        empty: number of documents without text.
        error: what is wrong with the line after the last document.
    """

    offsets: NDArray[np.int64]
    characters: NDArray[np.int64]
    hashes: NDArray[np.uint64] | None
    ends: NDArray[np.int64]
    content: bytes
    lines: int
    empty: int
    error: UserError | None = None


def scan(file: LineFile, start: int, stop: int, lines: int | None = None) -> Scanned:
    """Read the documents whose lines begin in a range.

    Args:
        file: the file.
        start: first byte of the range. The line that it is in belongs to the range before.
        stop: end of the range.
        lines: number of lines before it, for the error. None if it is unknown.

    Raises:
        UserError: the file was changed.
        OSError: it cannot be read.
    """
    place = _place(file.line_from(start), stop)
    place.number = before = place.number if lines is None else lines
    offsets, characters, hashes, content = [], [], [], []
    empty, error = 0, None
    documents = file.documents(place)
    is_hashed = True
    while True:
        try:
            document = next(documents, None)
        except UserError as found:
            file.check()
            error = found
            break
        if document is None:
            break
        offsets.append(place.line)
        characters.append(len(document.text) + len(document.title))
        content.append(fingerprinted_document(document))
        empty += is_empty(document.title, document.text)
        try:
            hashes.append(hash_id(document.doc_id))
        except UnicodeEncodeError:
            is_hashed = False
    return Scanned(
        np.array(offsets, dtype=np.int64),
        np.array(characters, dtype=np.int64),
        np.array(hashes, dtype=np.uint64) if is_hashed else None,
        np.cumsum([len(each) for each in content], dtype=np.int64),
        b"".join(content),
        place.number - before,
        empty,
        error,
    )


def _place(start: int, stop: int | None = None) -> Place:
    # A mark of the encoding is only looked for on line 1.
    return Place(start, min(start, 1), stop)


def cut_ranges(file: LineFile, most: int, text: int | None, whole: Fingerprint, readers: int) -> Iterator[Piece]:
    """Cut a file into shards of at most `most` documents, closed early at `text` characters.

    Args:
        file: the file.
        most: maximum number of documents in a shard.
        text: number of characters from which a shard is closed. None is no limit.
        whole: receives all documents.
        readers: number of processes that read. 0 is this one.

    Raises:
        UserError: a line is malformed, after all shards before it; or the file was changed.
        WorkFailed: a process died.
        OSError: the file cannot be read.
    """
    start = count = characters = 0
    part, hashes = Fingerprint(), list[NDArray[np.uint64] | None]()

    def piece() -> Piece:
        known = [each for each in hashes if each is not None]
        every = np.sort(np.concatenate(known)) if len(known) == len(hashes) else None
        own = part.hexdigest()
        return Piece(FileDocuments(file, start, count, own), own, every)

    for found in _scanned(file, readers):
        sums, view = np.cumsum(found.characters), memoryview(found.content)
        here, read = 0, len(found.offsets)
        while here < read:
            before = int(sums[here - 1]) if here else 0
            stop = min(read, here + most - count)
            if text is not None:
                stop = min(stop, 1 + int(np.searchsorted(sums, text - characters + before)))
            if not count:
                start = int(found.offsets[here])
            data = view[int(found.ends[here - 1]) if here else 0 : int(found.ends[stop - 1])]
            whole.update(data)
            part.update(data)
            hashes.append(None if found.hashes is None else found.hashes[here:stop])
            count, characters = count + stop - here, characters + int(sums[stop - 1]) - before
            here = stop
            if count == most or (text is not None and characters >= text):
                yield piece()
                count = characters = 0
                part, hashes = Fingerprint(), []
    if count:
        yield piece()


def _scanned(file: LineFile, readers: int) -> Iterator[Scanned]:
    """The ranges of a file in order. Each process reads every so-manyth of them, and waits until it is taken."""
    starts = range(0, file.size, RANGE_BYTES)
    running: list[tuple[Connection, SpawnProcess]] = []
    lines = empty = count = 0
    readers = min(readers, len(starts), _MOST_READERS)
    try:
        for number in range(readers):
            running.append(_started(file, starts[number::readers]))
        for number, start in enumerate(starts):
            found = _received(file, *running[number % readers]) if readers else None
            if found is None or found.error is not None:
                found = scan(file, start, start + RANGE_BYTES, lines)
            yield found
            if found.error is not None:
                raise found.error
            lines, empty, count = lines + found.lines, empty + found.empty, count + len(found.offsets)
    finally:
        for connection, process in running:
            connection.close()
            process.terminate()
            process.join()
    file.check()
    file.say_empty(empty, count)


def _started(file: LineFile, starts: Iterable[int]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(theirs, file, starts, RANGE_BYTES), name="reader", daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _received(file: LineFile, connection: Connection, process: SpawnProcess) -> Scanned:
    try:
        found: Any = connection.recv()
        if isinstance(found, Failure):
            raise found.error()
        result: Scanned = found._replace(content=connection.recv_bytes())
    except (EOFError, ConnectionError):
        process.join(5)
        raise WorkFailed(
            f"A process that read {file.path} was ended ({process.exitcode}), often for lack of memory: what is "
            "finished is kept; go on with `resume`."
        ) from None
    return result


def _read(connection: Connection, file: LineFile, starts: Iterable[int], size: int) -> None:
    """The main function of a process that reads ranges."""
    with answering(connection, "Reading"):
        for start in starts:
            found = scan(file, start, start + size)
            connection.send(found._replace(content=b""))
            # Not as a part of the tuple, which would be copied again.
            connection.send_bytes(found.content)
