"""Deletes documents from a finished index. Their rows stay, but searches skip them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.indexing.contents import open_contents
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import save_array
from ibkd_retrieval.indexing.format.manifest import Change, IndexManifest, write_manifest
from ibkd_retrieval.indexing.format.shards import file_record
from ibkd_retrieval.indexing.format.writing import only_writer, refusals_named


def delete_documents(folder: Path | str, ids: Collection[str]) -> IndexManifest:
    """Delete documents by id. Their disk space is freed when another index is made from this one.

    Either all are deleted or none. The list of deleted rows is a new file. The manifest that names it replaces the
    old one in a single step.

    Args:
        folder: the folder of a finished index.
        ids: ids of documents in the index.

    Returns:
        The new manifest.

    Raises:
        UserError: there is no sound index, an id is not in it (nothing is deleted then), or no document would be left.
        OSError: the disk is full or fails.
    """
    with only_writer(Path(folder)):
        return _delete(Path(folder), ids)


def _delete(folder: Path, ids: Collection[str]) -> IndexManifest:
    index = open_contents(folder)
    manifest, wanted = index.manifest, set(ids)
    if not wanted:
        raise UserError("There are no ids of documents to delete: give one a line.")
    rows = index.rows_of(wanted)
    left = wanted - rows.keys()
    if left:
        raise UserError(
            f"{len(left):,} of {len(wanted):,} ids to delete are not in the index in {folder} (such as {min(left)!r}); "
            "nothing was deleted: give ids of documents that it holds."
        )
    if len(rows) == manifest.document_count:
        raise UserError(f"These are all the documents of the index in {folder}: delete its folder instead.")
    with refusals_named(folder):
        layout.remove_leftovers(folder, manifest.files)
        after = write_manifest(folder, without_rows(folder, manifest, rows))
        if manifest.tombstones is not None:
            (folder / manifest.tombstones).unlink(missing_ok=True)
    return after


def without_rows(folder: Path, manifest: IndexManifest, rows: Mapping[str, int]) -> IndexManifest:
    """Write a new list of deleted rows beside the old one, and return a manifest that names it, not yet written.

    Args:
        folder: the index folder.
        manifest: its manifest.
        rows: the rows to delete by their ids. None of them is deleted already.
    """
    gone = np.array(list(rows.values()), dtype=np.int64)
    if manifest.tombstones is not None:
        gone = np.union1d(gone, np.load(folder / manifest.tombstones, allow_pickle=False))
    change = Change("delete", len(rows), "", hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest())
    tombstones = layout.next_name(folder, layout.TOMBSTONES, ".npy")
    with atomic_write(folder / tombstones) as file:
        save_array(file, gone)
    files = {name: record for name, record in manifest.files.items() if name != manifest.tombstones}
    return dataclasses.replace(
        manifest,
        corpus=manifest.corpus.changed(change),
        document_count=manifest.document_count - len(rows),
        deleted_count=len(gone),
        tombstones=tombstones,
        files=files | {tombstones: file_record(folder, tombstones)},
        changes=(*manifest.changes, change),
    )
