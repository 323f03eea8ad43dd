"""Whether the files of a finished index are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.indexing.manifest import IndexManifest, read_manifest

ALWAYS_VERIFIED_BYTES = 256 << 20
"""Largest faiss file whose checksum is tested at every opening (a fraction of a second)."""


def verify_index(folder: Path | str) -> IndexManifest:
    """Compare size and checksum of every file with the manifest, and return it.

    Raises:
        UserError: the folder holds no finished index, or a file of it is missing or damaged.
    """
    manifest = read_manifest(folder)
    verify_files(Path(folder), manifest, contents=True)
    return manifest


def verify_files(folder: Path, manifest: IndexManifest, contents: bool) -> None:
    """Compare the size of every file with the manifest; of a small faiss file, or with `contents` of all, the checksum.

    Raises:
        UserError: a file is missing, not listed or damaged.
    """
    for name in (manifest.doc_ids,) if manifest.search.is_exact else (manifest.structure, manifest.doc_ids):
        if name not in manifest.files:
            raise damaged(folder, name, "the manifest does not list it")
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise damaged(folder, name, "it is missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise damaged(folder, name, f"it has {size:,} bytes and {record.bytes:,} are recorded")
        read = contents or (name == manifest.structure and size <= ALWAYS_VERIFIED_BYTES)
        if read and sha256_file(path) != record.sha256:
            raise damaged(folder, name, "its checksum is not the one recorded")


def damaged(folder: Path, name: str, what: str) -> UserError:
    """What is wrong with the file `name` of an index, and how to mend it."""
    return UserError(
        f"The index is damaged in {folder / name}: {what}; repair it with `ibkd index --resume`, which encodes only "
        "what is not intact, or make it anew with `ibkd index --overwrite`."
    )
