"""Reads folders of Pyserini's FaissSearcher: `index`, a flat faiss index, and `docid`, one id per line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import load_faiss, read_structure_file
from ibkd_retrieval.indexing.importing.foreign import BLOCK_ROWS, ForeignVectors, VectorBlock, without_texts
from ibkd_retrieval.indexing.importing.ids import read_ids, require_as_many


def is_pyserini(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return (path / "index").is_file() and (path / "docid").is_file()


def open_pyserini(path: Path) -> ForeignVectors:
    """Open such a folder. The index is memory-mapped.

    Raises:
        UserError: faiss cannot read the index, it is not flat and so holds no exact vectors, or it has another number
            of vectors than there are ids.
        MissingPackage: faiss is not installed.
    """
    count = int(_read(path / "index").ntotal)
    require_as_many(count, path / "index", path / "docid")

    def blocks() -> Iterator[VectorBlock]:
        index = _read(path / "index")
        names = read_ids(path / "docid")
        for start in range(0, count, BLOCK_ROWS):
            vectors = index.reconstruct_n(start, min(BLOCK_ROWS, count - start))
            yield VectorBlock(without_texts(islice(names, len(vectors))), vectors)

    return ForeignVectors(path, count, blocks)


def _read(path: Path) -> Any:
    faiss = load_faiss()
    try:
        index = read_structure_file(path, faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read by faiss: give a folder made for Pyserini's FaissSearcher.") from error
    if not isinstance(index, faiss.IndexFlat) or not index.ntotal:
        found = "an empty index" if not index.ntotal else type(index).__name__
        raise UserError(
            f"{path} is {found}, which does not hold whole vectors: give the folder of a flat index (IndexFlat)."
        )
    return index
