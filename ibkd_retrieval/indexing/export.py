"""Index folders for other tools."""

from __future__ import annotations

import shutil
from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Flat
from ibkd_retrieval.indexing.families.effort import set_defaults
from ibkd_retrieval.indexing.shards import ShardVectors
from ibkd_retrieval.indexing.store import open_index
from ibkd_retrieval.indexing.structure import write_structure
from ibkd_retrieval.progress import SILENT, Progress


def export_pyserini(
    folder: Path | str, destination: Path | str, *, exact: bool = False, progress: Progress = SILENT
) -> None:
    """Write the folder that Pyserini's FaissSearcher reads: `index` (faiss) and `docid` (one id a line).

    Pyserini takes scores as faiss gives them. An approximate index therefore leaves with its default nprobe but
    without refinement, which is said; `exact` writes a flat index of the exact vectors instead.

    Raises:
        UserError: `folder` holds no sound index, or `destination` is not an empty or new folder.
    """
    folder, destination = Path(folder), Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} exists and is not an empty folder: name another with --output.")
    manifest = open_index(folder).manifest
    if manifest.deleted_count:
        raise UserError(
            f"{manifest.deleted_count:,} documents of {folder} are deleted, which Pyserini would find all the same: "
            f"make an index without them with `ibkd index --from {folder}` and export that."
        )
    destination.mkdir(parents=True, exist_ok=True)
    with open(folder / manifest.doc_ids, "rb") as source, atomic_write(destination / "docid") as target:
        shutil.copyfileobj(source, target)
    if manifest.structure not in manifest.files or (exact and not manifest.search.is_exact):
        vectors = ShardVectors(folder, [shard.documents for shard in manifest.shards], manifest.dim)
        flat = Flat(memory_bytes=4 * vectors.dim * vectors.count)
        write_structure(flat.build(vectors, progress).index, destination / "index")
    elif not manifest.search.is_exact:
        index = load_faiss().read_index(str(folder / manifest.structure))
        set_defaults(index, manifest.search)
        write_structure(index, destination / "index")
        progress.say(
            "Pyserini scores with the quantised vectors and finds less than `ibkd search` does: "
            "export exact vectors if that matters."
        )
    else:
        with open(folder / manifest.structure, "rb") as source, atomic_write(destination / "index") as target:
            shutil.copyfileobj(source, target)
