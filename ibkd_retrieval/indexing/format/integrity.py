"""Checks the files of a finished index against its manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.manifest import IndexManifest, read_manifest
from ibkd_retrieval.indexing.format.shards import is_intact, read_records, shard_files

T = TypeVar("T")

ALWAYS_VERIFIED_BYTES = 256 << 20
"""Maximum size of a file whose checksum is checked at every opening, which takes under a second."""


def verify_index(folder: Path | str) -> IndexManifest:
    """Compare size and checksum of every file with the manifest, and return it.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify_files(folder, manifest, contents=True)
    records = read_records(folder)
    for number in range(len(manifest.shards)):
        due = {name: manifest.files[name] for name in shard_files(number)}
        if number not in records or records[number].files != due:
            raise damaged(folder, manifest, layout.record_file(number), "it is missing, or not of this shard")
    return manifest


def verify_files(folder: Path, manifest: IndexManifest, contents: bool = False, structure: bool = True) -> None:
    """Compare the size of every file with the manifest, and the checksum of those that decide which ids are found.

    These are the faiss file, the ids with their offsets, and the list of deleted rows. Large files are skipped.

    Args:
        folder: the index folder.
        manifest: the manifest of the index.
        contents: compare all checksums.
        structure: check the faiss file too.

    Raises:
        UserError: a file is missing, not listed or damaged.
    """
    structures = manifest.structure_files or (manifest.structure,)
    due = [manifest.doc_ids] if manifest.search.is_exact or not structure else [*structures, manifest.doc_ids]
    for name in due:
        if name not in manifest.files:
            raise damaged(folder, manifest, name, "the manifest does not list it")
    deciding = {*structures, *layout.doc_id_files(manifest.doc_ids), manifest.tombstones}
    for name, record in manifest.files.items():
        if name in structures and not structure:
            continue
        path = os.path.join(folder, name)  # Of as many files, `Path` takes several times as long.
        size = os.stat(path).st_size if os.path.isfile(path) else None
        if size is None:
            raise damaged(folder, manifest, name, "it is missing")
        if size != record.bytes:
            raise damaged(folder, manifest, name, f"it has {size:,} bytes and {record.bytes:,} are recorded")
        read = contents or (name in deciding and size <= ALWAYS_VERIFIED_BYTES)
        if read and sha256_file(path) != record.sha256:
            raise damaged(folder, manifest, name, "its checksum is not the one recorded")


def damaged(folder: Path, manifest: IndexManifest, name: str, what: str) -> UserError:
    """An error that names the damaged file `name` of an index and says how to repair it."""
    said = f"The index is damaged in {folder / name}: {what}; "
    if not manifest.changes:
        return UserError(
            f"{said}repair it with `build_index(resume=True)`, which encodes only what is not intact, or make it anew "
            "with `build_index(overwrite=True)`."
        )
    done = ", ".join(sorted({change.kind for change in manifest.changes}))
    if name == manifest.structure or name in manifest.structure_files:
        return UserError(
            f"{said}make another of its vectors with `combine(from_='{folder}', type='{manifest.family}', "
            "output=OTHER)`."
        )
    return UserError(
        f"{said}no one corpus can repair it, since it was changed ({done}): bring the file back from a copy, or make "
        "the index anew with `build_index(overwrite=True)`."
    )


def read_consistently(folder: Path, read: Callable[[IndexManifest], T]) -> T:
    """The result of `read`, which runs again if the manifest was replaced in the meantime.

    A process that appends or deletes removes files of the manifest that it replaces.

    Raises:
        UserError: as `read` does of an index that did not change while it was read.
    """
    while True:
        manifest = read_manifest(folder)
        try:
            return read(manifest)
        except (UserError, OSError):
            if read_manifest(folder) == manifest:
                raise


class Unchanged:
    """Detects, before they are read, files of an open index that were replaced by another index's or are damaged."""

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._seen = self._mark()
        self._intact: set[str] = set()
        stored = sum(manifest.files[shard.vectors].bytes for shard in manifest.shards)
        self.check_vectors = self.check_contents if stored <= ALWAYS_VERIFIED_BYTES else self.check

    def check(self, name: str) -> None:
        """Check that a file is still the one in the manifest. Appends and deletions are allowed.

        Raises:
            UserError: it is not.
        """
        mark = self._mark()
        if mark == self._seen:
            return
        try:
            same = read_manifest(self._folder).files.get(name) == self._manifest.files.get(name)
        except UserError:
            same = False
        if not same:
            raise UserError(f"The index in {self._folder} was replaced while it was open: open it anew.")
        self._seen = mark

    def check_contents(self, name: str) -> None:
        """Check that a file is still the one in the manifest, and at its first use its checksum.

        Raises:
            UserError: it is another one, or damaged.
        """
        self.check(name)
        if name in self._intact:
            return
        if not is_intact(self._folder, {name: self._manifest.files[name]}):
            raise damaged(self._folder, self._manifest, name, "its checksum is not the one recorded")
        self._intact.add(name)

    def _mark(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._folder / layout.MANIFEST)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
