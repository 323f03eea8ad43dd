"""Opens vectors in files of faiss: plain ones, and the folders of Pyserini."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import load_faiss, read_structure_file
from ibkd_retrieval.indexing.importing import BLOCK_ROWS, ForeignVectors, VectorBlock, without_texts
from ibkd_retrieval.indexing.importing.documents import read_ids, require_as_many

_FIRST_LETTERS = (b"Ix", b"IH", b"Iw")
"""Of a file with a flat index or an id map, with a graph, and with inverted lists (`faiss/impl/index_write.cpp`)."""


def is_faiss(path: Path) -> bool:
    """Whether `path` is a file of faiss: by its suffix, `.faiss` or `.index`, or by its first letters."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix in (".faiss", ".index") or file.read(2) in _FIRST_LETTERS


def is_pyserini(path: Path) -> bool:
    """Whether `path` is a folder of Pyserini's FaissSearcher: `index`, a flat faiss index, and `docid`, its ids."""
    return (path / "index").is_file() and (path / "docid").is_file()


def open_pyserini(path: Path) -> ForeignVectors:
    """Open a folder of Pyserini's, as `open_faiss` opens a file."""
    return replace(open_faiss(path / "index", path / "docid"), path=path)


def open_faiss(path: Path, ids: Path | None) -> ForeignVectors:
    """Open a file of faiss that holds whole vectors: flat, or a graph or inverted lists over them. It is memory-mapped.

    The numbers in an id map or in inverted lists are places in the list of ids, from 0 on. Without that list they are
    the ids themselves.

    Args:
        path: the file.
        ids: the file of the ids (`documents.read_ids`), or None.

    Raises:
        UserError: faiss cannot read it, it holds no whole vectors, or there is another number of ids.
        MissingPackage: faiss is not installed.
    """
    index = _read(path)
    count, in_order = int(index.ntotal), _in_order(index)
    if ids is None and in_order:
        raise UserError(f"{path} holds vectors without ids: name the file that lists them with `ids`.")
    if ids is not None and in_order:
        require_as_many(count, path, ids)

    def blocks() -> Iterator[VectorBlock]:
        names = None if ids is None else list(read_ids(ids))
        for numbers, vectors in _numbered(_read(path)):
            if names is None:
                found = [str(number) for number in numbers.tolist()]
            else:
                beyond = numbers[(numbers < 0) | (numbers >= len(names))]
                if len(beyond):
                    raise UserError(
                        f"{path} numbers a vector {beyond[0]} and {ids} lists {len(names):,} ids, from 0 on: give the "
                        "list that its numbers are places in, or leave out `ids`."
                    )
                found = [names[number] for number in numbers.tolist()]
            yield VectorBlock(without_texts(found), vectors)

    return ForeignVectors(path, count, blocks)


def _read(path: Path) -> Any:
    faiss = load_faiss()
    try:
        index = read_structure_file(path, faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read by faiss: give a file of faiss.write_index.") from error
    held = _held(index)
    whole = faiss.IndexFlat | faiss.IndexIVFFlat
    if not isinstance(held, whole) or not index.ntotal:
        found = "an empty index" if not index.ntotal else type(held).__name__
        raise UserError(
            f"{path} is {found}, which does not hold whole vectors: give the file of a flat index (IndexFlat), or one "
            "with a graph or inverted lists over whole vectors (HNSWFlat, IVFFlat)."
        )
    return index


def _held(index: Any) -> Any:
    """What holds the vectors of an index: below its id map, and below its graph."""
    faiss = load_faiss()
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    return faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSWFlat) else inner


def _in_order(index: Any) -> bool:
    """Whether the vectors are numbered 0, 1, ..., n - 1 by their order."""
    faiss = load_faiss()
    return not isinstance(index, faiss.IndexIDMap | faiss.IndexIVFFlat)


def _numbered(index: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The vectors [n, d] in blocks, and the numbers [n] of each block."""
    faiss = load_faiss()
    mapped = faiss.vector_to_array(index.id_map) if isinstance(index, faiss.IndexIDMap) else None
    held = _held(index)
    for numbers, vectors in _of_lists(held) if isinstance(held, faiss.IndexIVFFlat) else _of_flat(held):
        yield numbers if mapped is None else mapped[numbers], vectors


def _of_flat(flat: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for start in range(0, flat.ntotal, BLOCK_ROWS):
        vectors = flat.reconstruct_n(start, min(BLOCK_ROWS, flat.ntotal - start))
        yield np.arange(start, start + len(vectors)), vectors


def _of_lists(inverted: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    faiss = load_faiss()
    lists = inverted.invlists
    for number in range(inverted.nlist):
        size = lists.list_size(number)
        if size:
            numbers = faiss.rev_swig_ptr(lists.get_ids(number), size).copy()
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * inverted.code_size).copy()
            yield numbers, codes.view(np.float32).reshape(size, inverted.d)
