"""Exports index folders to the formats of Pyserini, NumPy and parquet."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import new_folder
from ibkd_retrieval.indexing.contents import IndexContents, open_contents
from ibkd_retrieval.indexing.faiss_binding import load_faiss, read_structure_file, write_structure
from ibkd_retrieval.indexing.families.search_params import set_defaults
from ibkd_retrieval.progress import SILENT, Progress

_ROW_GROUP = 8192


def export_index(
    folder: Path | str, destination: Path | str, to: str, *, exact: bool = False, progress: Progress = SILENT
) -> None:
    """Write an index in another tool's format. The folder appears whole or not at all.

    Args:
        folder: the index.
        destination: a folder that does not exist or is empty.
        to: a key of `FORMATS`.
        exact: for pyserini: write exact vectors whatever the index's type. The other formats always hold them.
        progress: receives the progress.

    Raises:
        UserError: there is no such format, `folder` holds no sound index, or `destination` is taken.
        OSError: the disk is full or fails.
    """
    if to not in FORMATS:
        raise UserError(f"Unknown format `{to}`: use {', '.join(FORMATS)} for an index, or onnx for a model.")
    if to == "pyserini":
        export_pyserini(folder, destination, exact=exact, progress=progress)
    else:
        FORMATS[to](folder, destination, progress=progress)


def export_pyserini(
    folder: Path | str, destination: Path | str, *, exact: bool = False, progress: Progress = SILENT
) -> None:
    """Write the folder that Pyserini's FaissSearcher reads: `index` (faiss) and `docid` (one id a line).

    Pyserini uses the scores of faiss. An approximate index is therefore exported with its default nprobe but without
    refinement, and a message says so. `exact` writes a flat index of the exact vectors instead.

    Raises:
        UserError: `folder` holds no sound index, or `destination` is not an empty or new folder.
    """
    folder = Path(folder)
    with new_folder(destination) as made:
        contents = open_contents(folder, structure=True)
        manifest = contents.manifest
        if manifest.deleted_count:
            raise UserError(
                f"{manifest.deleted_count:,} documents of {folder} are deleted, and Pyserini would find them: "
                f"make an index without them with `combine(from_='{folder}')` and export that."
            )
        shutil.copyfile(folder / manifest.doc_ids, made / "docid")
        if manifest.structure not in manifest.files or (exact and not manifest.search.is_exact):
            _write_flat(contents.vectors(), (manifest.rows, manifest.dim), made / "index", progress)
        elif not manifest.search.is_exact:
            index = read_structure_file(folder / manifest.structure)
            set_defaults(index, manifest.search)
            write_structure(index, made / "index")
            progress.say(
                "Pyserini scores with the quantised vectors and finds less than a search of the index does: "
                "export exact vectors if that matters."
            )
        else:
            shutil.copyfile(folder / manifest.structure, made / "index")


def _write_flat(vectors: Iterable[NDArray[np.float32]], shape: tuple[int, int], path: Path, progress: Progress) -> None:
    """Write faiss's file of an IndexFlatIP of vectors of this shape (n, dim), shard by shard.

    It is that of an empty one, which ends in the number of its values, with both counts filled in and the values after
    it (`write_index` of faiss/impl/index_write.cpp).
    """
    faiss = load_faiss()
    head = bytearray(faiss.serialize_index(faiss.IndexFlatIP(shape[1])).tobytes())
    # After four letters and the dimension, an int32: the number of vectors, an int64.
    head[8:16] = struct.pack("<q", shape[0])
    head[-8:] = struct.pack("<Q", shape[0] * shape[1])
    with open(path, "wb") as file, progress.task("Writing vectors", shape[0], "vectors") as task:
        file.write(head)
        for shard in vectors:
            file.write(np.ascontiguousarray(shard, dtype="<f4").data)
            task.advance(len(shard))


def export_numpy(folder: Path | str, destination: Path | str, *, progress: Progress = SILENT) -> None:
    """Write `vectors.npy`, float32 [n, dim], and `ids.txt`, one id a line in the order of the rows.

    The file is written shard by shard.

    Raises:
        UserError: `folder` holds no sound index, or `destination` is not an empty or new folder.
    """
    with new_folder(destination) as made:
        index = open_contents(folder)
        with open(made / "ids.txt", "w", encoding="utf-8", newline="\n") as lines:
            lines.writelines(f"{index.doc_id(row)}\n" for row in _rows(index))
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(index), index.manifest.dim)}
        with open(made / "vectors.npy", "wb") as file, progress.task("Writing vectors", len(index), "vectors") as task:
            np.lib.format.write_array_header_1_0(file, header)
            for shard, _ in _shards(index):
                file.write(np.ascontiguousarray(shard, dtype="<f4").data)
                task.advance(len(shard))


def export_parquet(folder: Path | str, destination: Path | str, *, progress: Progress = SILENT) -> None:
    """Write `documents.parquet`: `id`, `title`, `text` and `vector` (fixed-size list of dim float32).

    A row group holds a shard, or part of one. Other fields of documents are left out.

    Raises:
        UserError: `folder` holds no sound index, a text cannot be written as UTF-8, or `destination` is not an empty
            or new folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with new_folder(destination) as made:
        index = open_contents(folder)
        dim = index.manifest.dim
        texts = [pa.field(name, pa.string(), nullable=False) for name in ("id", "title", "text")]
        schema = pa.schema([*texts, pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)])
        with (
            pq.ParquetWriter(made / "documents.parquet", schema, compression="zstd") as writer,
            progress.task("Writing documents", len(index), "documents") as task,
        ):
            for shard, documents in _shards(index):
                for start in range(0, len(shard), _ROW_GROUP):
                    rows = np.ascontiguousarray(shard[start : start + _ROW_GROUP], dtype=np.float32)
                    here = list(islice(documents, len(rows)))
                    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), dim)
                    writer.write_table(pa.table([*_columns(here, pa), vectors], schema=schema))
                    task.advance(len(rows))


FORMATS: dict[str, Callable[..., None]] = {
    "pyserini": export_pyserini,
    "numpy": export_numpy,
    "parquet": export_parquet,
}
"""The tools that an index can be written for."""


def _rows(index: IndexContents) -> Iterator[int]:
    """The rows whose documents were not deleted."""
    rows = range(index.manifest.rows)
    return iter(rows) if index.present is None else compress(rows, index.present)


def _shards(index: IndexContents) -> Iterator[tuple[NDArray[np.float32], Iterator[Document]]]:
    """Shard by shard, the vectors and the documents that were not deleted."""
    row, every = 0, index.documents()
    for shard, vectors in zip(index.manifest.shards, index.vectors(), strict=True):
        documents = islice(every, shard.documents)
        if index.present is None:
            yield vectors, documents
        else:
            kept = index.present[row : row + shard.documents]
            yield vectors[kept], compress(documents, kept)
        row += shard.documents


def _columns(documents: list[Document], pa: Any) -> list[Any]:
    try:
        return [
            pa.array([getattr(document, name) for document in documents], pa.string())
            for name in ("doc_id", "title", "text")
        ]
    except UnicodeEncodeError as error:
        raise UserError(
            f"A text among {documents[0].doc_id!r} to {documents[-1].doc_id!r} holds half of a surrogate pair, which "
            "parquet cannot hold: export with `to='numpy'`."
        ) from error
