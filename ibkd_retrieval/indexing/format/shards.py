"""Shards: groups of documents with their vectors. An index is encoded and resumed shard by shard."""

from __future__ import annotations

import dataclasses
import json
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import NO_FIELDS, Document, FieldValue
from ibkd_retrieval.files import atomic_write, sha256_file, write_json
from ibkd_retrieval.indexing.format.layout import FORMAT, documents_file, ids_file, record_file, vectors_file
from ibkd_retrieval.indexing.format.lines import LineStore, offsets_path, save_array, write_lines
from ibkd_retrieval.indexing.format.manifest import FileRecord
from ibkd_retrieval.indexing.format.staging import StagedLines, StagedVectors
from ibkd_retrieval.indexing.format.vectors import pack
from ibkd_retrieval.json_io import decode, parse, parse_fast

T = TypeVar("T")

_FIELDS = ', "fields": {'


@dataclass(frozen=True)
class ShardRecord:
    """The record of a finished shard.

    Attributes:
        documents: number of documents.
        fingerprint: fingerprint of the documents (`identity.fingerprint`).
        weight_hash: hash of the encoder's weights.
        encode_seconds: encoding time in seconds.
        files: size and checksum of the shard's files, by path relative to the index folder.
        vector_format: format of the stored vectors.
        ids: size and checksum of the file of its ids. None without one.
    """

    documents: int
    fingerprint: str
    weight_hash: str
    encode_seconds: float
    files: dict[str, FileRecord]
    vector_format: str = "float32"
    ids: FileRecord | None = None


def file_record(folder: Path, name: str) -> FileRecord:
    """Measure a file of an index folder."""
    path = folder / name
    return FileRecord(path.stat().st_size, sha256_file(path))


def is_intact(folder: Path, files: dict[str, FileRecord]) -> bool:
    """Whether all `files` exist with the recorded size and checksum."""
    for name, record in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != record.bytes or sha256_file(path) != record.sha256:
            return False
    return True


def write_shard(
    folder: Path,
    number: int,
    documents: Sequence[Document],
    vectors: NDArray[np.float32] | StagedVectors,
    *,
    fingerprint: str,
    weight_hash: str,
    encode_seconds: float,
    vector_format: str = "float32",
    staged: StagedLines | None = None,
) -> ShardRecord:
    """Write the vectors [n, dim], the documents and the ids of a shard, and then its record.

    Staged vectors, and the documents where they are `staged`, are moved to their place.

    Raises:
        UserError: `vector_format` cannot hold the vectors.
        OSError: the disk is full or fails.
    """
    path = folder / vectors_file(number)
    moved = {}
    if isinstance(vectors, StagedVectors):
        moved[vectors_file(number)] = vectors.file.move_to(path)
    else:
        packed = pack(vectors, vector_format)
        with atomic_write(path) as file:
            save_array(file, packed)
    texts, ids = documents_file(number), ids_file(number)
    if staged is None:
        write_lines(folder / texts, map(line_of, documents))
        with atomic_write(folder / ids) as file:
            file.write(ids_of(documents))
    else:
        moved[texts] = staged.lines.move_to(folder / texts)
        moved[offsets_path(Path(texts)).as_posix()] = staged.offsets.move_to(offsets_path(folder / texts))
        moved[ids] = staged.ids.move_to(folder / ids)
    record = ShardRecord(
        documents=len(documents),
        fingerprint=fingerprint,
        weight_hash=weight_hash,
        encode_seconds=encode_seconds,
        files={name: moved.get(name) or file_record(folder, name) for name in shard_files(number)},
        vector_format=vector_format,
        ids=moved.get(ids) or file_record(folder, ids),
    )
    write_record(folder, number, record)
    return record


def shard_files(number: int) -> tuple[str, str, str]:
    """Relative paths of the files of a shard: its vectors, its documents, and their offsets."""
    texts = documents_file(number)
    return vectors_file(number), texts, offsets_path(Path(texts)).as_posix()


def write_record(folder: Path, number: int, record: ShardRecord) -> None:
    """Record a shard as finished, after its files are written."""
    write_json(folder / record_file(number), {"format": FORMAT, **dataclasses.asdict(record)})


def read_records(folder: Path) -> dict[int, ShardRecord]:
    """The records of the finished shards. A shard with an unreadable record is not finished."""
    records = {}
    for path in sorted((folder / "shards").glob("[0-9]*.json")):
        try:
            records[int(path.stem)] = decode(ShardRecord, parse(path.read_bytes()))
        except ValueError:
            continue
    return records


def stored_ids(folder: Path, records: Mapping[int, ShardRecord]) -> Iterator[str]:
    """Ids of the documents in shards, in the order of their records."""
    for number, record in records.items():
        if record.ids is not None and is_intact(folder, {ids_file(number): record.ids}):
            yield from (folder / ids_file(number)).read_bytes().decode().split("\n")[:-1]
        else:
            for line in LineStore(folder / documents_file(number)):
                yield parse_fast(line)["id"]


def document_from_json(line: str) -> Document:
    """A stored document from its line."""
    value = json.loads(line)
    return Document(value["id"], value["text"], value["title"], value.get("fields", NO_FIELDS))


def fields_from_json(line: str) -> dict[str, FieldValue]:
    """The fields of a stored document from its line, without parsing its text."""
    # Inside a text, the quotation mark of `"fields` is escaped, and field values are never objects. So this occurs at
    # most once in a line, at its end.
    mark = line.find(_FIELDS)
    if mark < 0:
        return {}
    fields: dict[str, FieldValue] = json.loads(line[mark + len(_FIELDS) - 1 : -1])
    return fields


def ids_of(documents: Sequence[Document]) -> bytes:
    """The ids of a shard, a line each. With them, nobody has to read the documents again for their ids."""
    return "".join(f"{document.doc_id}\n" for document in documents).encode()


def line_of(document: Document) -> bytes:
    """The line that stores a document: what `json.dumps` gives, and not ASCII only."""
    doc_id, text, title, fields = document
    try:
        line = b'{"id": %b, "title": %b, "text": %b' % (orjson.dumps(doc_id), orjson.dumps(title), orjson.dumps(text))
        more = b', "fields": ' + json.dumps(dict(fields), ensure_ascii=False).encode() if fields else b""
    except (orjson.JSONEncodeError, UnicodeEncodeError):
        # Lone surrogates have no UTF-8 bytes, but JSON has an escape for them.
        value: dict[str, object] = {"id": doc_id, "title": title, "text": text}
        return json.dumps(value | {"fields": dict(fields)} if fields else value).encode()
    return b"%b%b}" % (line, more)


_MOST_OPEN = 1 << 13
"""Files of documents that are open at once. Each has two maps, and a search needs the others of a process."""


class OpenFiles(Generic[T]):
    """Keeps recently used files open, within the process's limit of open files.

    Every memory map holds a file descriptor, and a large index has thousands of shards.
    """

    def __init__(self) -> None:
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._capacity = (
            _MOST_OPEN if soft_limit == resource.RLIM_INFINITY else min(_MOST_OPEN, max(4, soft_limit // 8))
        )
        self._opened: OrderedDict[int, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int, open_number: Callable[[int], T]) -> T:
        """The open file of a number. `open_number` opens it if it is not open.

        The function is not stored, because a method of the index would keep the index alive.
        """
        with self._lock:
            if number not in self._opened:
                if len(self._opened) >= self._capacity:
                    self._opened.popitem(last=False)
                self._opened[number] = open_number(number)
            self._opened.move_to_end(number)
            return self._opened[number]
