"""The interface of lexical engines, and their indexes on disk.

A lexical index is built at first use from the stored documents of an index, and kept in its folder.
`lexical/<engine>-<hash of its settings>/` holds the engine's own files and `lexical.json`, which is written last. The
folder is made under a temporary name and renamed. So it is either whole or absent.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import own_folder, sync_directory, write_json
from ibkd_retrieval.indexing.format.integrity import ALWAYS_VERIFIED_BYTES
from ibkd_retrieval.indexing.format.layout import LEXICAL
from ibkd_retrieval.indexing.format.manifest import FileRecord
from ibkd_retrieval.indexing.format.shards import file_record, is_intact
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import Progress, Task

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.index import StoredIndex


Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows of documents and their scores, in no particular order. All scores are above 0."""


class Opened(Protocol):
    """A lexical index, opened for search."""

    def best(self, texts: Sequence[str], k: int, allowed: NDArray[np.bool_] | None) -> list[Found]:
        """The k best documents for each query, and those that tie with the last one.

        Args:
            texts: the queries. A query without a known word finds nothing.
            k: number of results, at least 1.
            allowed: bool [n]: only rows that are True are found. None allows all.
        """


class Engine(Protocol):
    """A lexical engine with its settings."""

    @property
    def name(self) -> str:
        """The name that the user gives."""

    @property
    def version(self) -> str:
        """The version of the engine's library."""

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings that decide the contents of its files."""

    def build(self, folder: Path, documents: Iterable[Document], task: Task) -> None:
        """Index `documents` into files in the empty `folder`. A document's row is its place in the stream."""

    def open(self, folder: Path) -> Opened:
        """Open the files that `build` made."""


MANIFEST = "lexical.json"
FORMAT = "ibkd-lexical"
FORMAT_VERSION = 1

_BUILDING = threading.Lock()


@dataclass(frozen=True)
class LexicalManifest:
    """`lexical.json`, written last.

    Attributes:
        engine: name of the engine.
        version: version of the engine's library that wrote the files.
        settings: settings of the engine, as text.
        corpus_fingerprint: fingerprint of the documents, from the index's manifest.
        document_count: number of documents, including those deleted from the index.
        files: size and checksum by path relative to the folder, with "/".
        seconds: time spent on reading and indexing the documents.
        created: time at which the manifest was written, ISO 8601 in UTC.
    """

    format_version: int
    engine: str
    version: str
    settings: dict[str, str]
    corpus_fingerprint: str
    document_count: int
    files: dict[str, FileRecord]
    seconds: float
    created: str


def made_folder(index: StoredIndex, engine: Engine, progress: Progress) -> Path:
    """The folder of the engine's files for `index`. It is built if it is missing or out of date.

    Raises:
        UserError: the folder cannot be written, or the index stores no text.
    """
    settings = json.dumps(dict(engine.settings), sort_keys=True)
    name = f"{engine.name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    folder = index.folder / LEXICAL / name
    with _BUILDING:
        fault = _fault(folder, index, engine)
        if fault is not None:
            if folder.exists():
                progress.say(f"The {engine.name} index in {folder} {fault} and is made anew.")
            _make(folder, index, engine, progress)
            for older in _superseded(folder, engine):
                progress.say(f"The {engine.name} index in {older} is of an earlier version and is removed.")
                shutil.rmtree(older, ignore_errors=True)
    return folder


def _fault(folder: Path, index: StoredIndex, engine: Engine) -> str | None:
    """Why the files in `folder` cannot be used. None if they can."""
    try:
        value = parse((folder / MANIFEST).read_bytes())
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError
        manifest = decode(LexicalManifest, value)
    except (OSError, ValueError):
        return "is not finished"
    if (
        manifest.corpus_fingerprint != index.manifest.corpus.fingerprint
        or manifest.document_count != index.manifest.rows
    ):
        return "belongs to other documents"
    if manifest.format_version != FORMAT_VERSION or _release(manifest.version) != _release(engine.version):
        return f"was written by another version ({manifest.version})"
    small = sum(record.bytes for record in manifest.files.values()) <= ALWAYS_VERIFIED_BYTES
    sizes_hold = all(_size(folder / name) == record.bytes for name, record in manifest.files.items())
    if not sizes_hold or (small and not is_intact(folder, manifest.files)):
        return "is damaged"
    return None


def _superseded(folder: Path, engine: Engine) -> list[Path]:
    """Indexes beside `folder` that an earlier version made with the same settings, as far as it had them."""
    found = []
    for path in sorted(folder.parent.glob(f"{engine.name}-*/{MANIFEST}")):
        try:
            settings = decode(LexicalManifest, parse(path.read_bytes())).settings
        except (OSError, ValueError):
            continue
        if settings.items() < dict(engine.settings).items():
            found.append(path.parent)
    return found


def _release(version: str) -> list[str]:
    """The major and minor version. Libraries keep their formats within them."""
    return version.split(".")[:2]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _make(folder: Path, index: StoredIndex, engine: Engine, progress: Progress) -> None:
    try:
        temporary = own_folder(folder)
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written ({error.strerror}), and the {engine.name} index is made there on first "
            "use: make the folder writable, or copy the index to one that is."
        ) from error
    try:
        started = time.perf_counter()
        with progress.task(f"Indexing words ({engine.name})", index.manifest.rows, "documents") as task:
            engine.build(temporary, _stored_documents(index), task)
        names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
        for name in names:
            _sync(temporary / name)
        manifest = LexicalManifest(
            format_version=FORMAT_VERSION,
            engine=engine.name,
            version=engine.version,
            settings=dict(engine.settings),
            corpus_fingerprint=index.manifest.corpus.fingerprint,
            document_count=index.manifest.rows,
            files={name: file_record(temporary, name) for name in names},
            seconds=time.perf_counter() - started,
            created=datetime.datetime.now(datetime.UTC).isoformat(),
        )
        write_json(temporary / MANIFEST, {"format": FORMAT, **dataclasses.asdict(manifest)})
        # Another process may have finished first. Its files are the same.
        if _fault(folder, index, engine) is not None:
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            sync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _stored_documents(index: StoredIndex) -> Iterator[Document]:
    blank = True
    for document in index.documents():
        blank = blank and not document.content.strip()
        yield document
    if blank:
        raise UserError(
            f"The index in {index.folder} stores no text, so there are no words to search: search it by vectors."
        )


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
