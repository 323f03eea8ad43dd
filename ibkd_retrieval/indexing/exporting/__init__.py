"""Exports index folders to the formats of Pyserini, NumPy and parquet."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import new_folder
from ibkd_retrieval.indexing.building.memory import machine_memory
from ibkd_retrieval.indexing.contents import IndexContents, open_contents
from ibkd_retrieval.indexing.exporting.databases import DATABASES
from ibkd_retrieval.indexing.exporting.rows import ArrowRows
from ibkd_retrieval.indexing.faiss_binding import load_faiss, read_structure_file, write_structure
from ibkd_retrieval.indexing.families.parts import open_parts
from ibkd_retrieval.indexing.families.search_params import set_defaults
from ibkd_retrieval.indexing.format.manifest import IndexManifest
from ibkd_retrieval.progress import SILENT, Progress


def export_index(
    folder: Path | str, destination: Path | str, to: str, *, exact: bool = False, progress: Progress = SILENT
) -> None:
    """Write an index in another tool's format (`api.export`). The folder appears whole or not at all.

    Raises:
        UserError: there is no such format, `folder` holds no sound index, or `destination` is taken.
        OSError: the disk is full or fails.
    """
    if to not in FORMATS:
        raise UserError(
            f"Unknown format `{to}`: use {', '.join([*FORMATS, *DATABASES])} or store for an index, "
            "or onnx, openvino or router for a model."
        )
    with new_folder(destination) as made:
        index = open_contents(folder, structure=to == "pyserini")
        if to == "pyserini":
            _write_pyserini(index, made, exact, progress)
        else:
            FORMATS[to](index, made, progress)


def _write_pyserini(index: IndexContents, made: Path, exact: bool, progress: Progress) -> None:
    """Write the folder that Pyserini's FaissSearcher reads: `index` (faiss) and `docid` (one id a line).

    Pyserini uses the scores of faiss. An approximate index is therefore exported with its default nprobe but without
    refinement, and a message says so. `exact` writes a flat index of the exact vectors instead.
    """
    folder, manifest = index.folder, index.manifest
    if manifest.deleted_count:
        raise UserError(
            f"{manifest.deleted_count:,} documents of {folder} are deleted, and Pyserini would find them: "
            f"make an index without them with `combine(from_='{folder}')` and export that."
        )
    shutil.copyfile(folder / manifest.doc_ids, made / "docid")
    if not manifest.structure_files or (exact and not manifest.search.is_exact):
        _write_flat(index.vectors(), (manifest.rows, manifest.dim), made / "index", progress)
    elif manifest.search.is_exact:
        shutil.copyfile(folder / manifest.structure, made / "index")
    else:
        whole = folder / manifest.structure
        structure = _joined(folder, manifest) if manifest.parts else read_structure_file(whole)
        set_defaults(structure, manifest.search)
        write_structure(structure, made / "index")
        progress.say(
            "Pyserini scores with the quantised vectors and finds less than a search of the index does: "
            "export exact vectors if that matters."
        )


def _joined(folder: Path, manifest: IndexManifest) -> Any:
    """The one faiss index of a structure in parts.

    Raises:
        UserError: it takes more than half of this machine's memory.
    """
    if manifest.structure_bytes > machine_memory() // 2:
        raise UserError(
            f"The {len(manifest.parts)} parts of {folder} take {manifest.structure_bytes / 1e9:,.1f} GB, which is more "
            "than half of this machine's memory: export on a larger machine, or write exact vectors with `exact`."
        )
    return open_parts(folder, manifest).merged()


def _write_flat(vectors: Iterable[NDArray[np.float32]], shape: tuple[int, int], path: Path, progress: Progress) -> None:
    """Write faiss's file of an IndexFlatIP of vectors of this shape (n, dim), shard by shard.

    It begins as the file of an empty index, which ends with the number of its values. Both counts are filled in, and
    the values follow (`write_index` of faiss/impl/index_write.cpp).
    """
    faiss = load_faiss()
    head = bytearray(faiss.serialize_index(faiss.IndexFlatIP(shape[1])).tobytes())
    # After four letters and the dimension (int32) comes the number of vectors (int64).
    head[8:16] = struct.pack("<q", shape[0])
    head[-8:] = struct.pack("<Q", shape[0] * shape[1])
    with open(path, "wb") as file:
        file.write(head)
        _write_vectors(file, vectors, shape[0], progress)


def _write_vectors(file: IO[bytes], shards: Iterable[NDArray[np.float32]], count: int, progress: Progress) -> None:
    with progress.task("Writing vectors", count, "vectors") as task:
        for shard in shards:
            file.write(np.ascontiguousarray(shard, dtype="<f4").data)
            task.advance(len(shard))


def _write_numpy(index: IndexContents, made: Path, progress: Progress) -> None:
    """Write `vectors.npy`, float32 [n, dim], and `ids.txt`, one id a line in the order of the rows."""
    with open(made / "ids.txt", "w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{doc_id}\n" for doc_id in index.present_ids())
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(index), index.manifest.dim)}
    with open(made / "vectors.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        _write_vectors(file, _present_vectors(index), len(index), progress)


def _present_vectors(index: IndexContents) -> Iterator[NDArray[np.float32]]:
    for number, vectors in enumerate(index.vectors()):
        present = index.shard_present(number)
        yield vectors if present is None else vectors[present]


def _write_parquet(index: IndexContents, made: Path, progress: Progress) -> None:
    """Write `documents.parquet`: `id`, `title`, `text`, `metadata` (the fields) and `vector` (a list of dim float32).

    A row group holds a shard, or part of one.
    """
    import pyarrow.parquet as pq

    arrow = ArrowRows(index)
    with (
        pq.ParquetWriter(made / "documents.parquet", arrow.schema, compression="zstd") as writer,
        progress.task("Writing documents", len(index), "documents") as task,
    ):
        for number in range(len(index.manifest.shards)):
            for rows in index.shard_rows(number):
                writer.write_batch(arrow.batch(rows))
                task.advance(len(rows.documents))


FORMATS: dict[str, Callable[..., None]] = {
    "pyserini": _write_pyserini,
    "numpy": _write_numpy,
    "parquet": _write_parquet,
}
"""The tools that an index can be written for."""
