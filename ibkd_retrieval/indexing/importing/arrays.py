"""Reads vectors from a NumPy file or an array, and their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import checked_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing.foreign import BLOCK_ROWS, ForeignVectors, VectorBlock, without_texts
from ibkd_retrieval.indexing.importing.ids import read_ids, require_as_many


def open_array(path: Path, ids: Path) -> ForeignVectors:
    """Open a `.npy` file of vectors [n, d], float16, float32 or float64, and the list of their n ids.

    Raises:
        UserError: the file holds something else, or another number of vectors than there are ids.
    """
    count = len(_map(path))
    require_as_many(count, path, ids)

    def blocks() -> Iterator[VectorBlock]:
        names = read_ids(ids)
        for start in range(0, count, BLOCK_ROWS):
            # Mapped anew for each block: pages that were read would stay in this process's memory as long as the map.
            vectors = np.array(_map(path)[start : start + BLOCK_ROWS], dtype=np.float32)
            yield VectorBlock(without_texts(islice(names, len(vectors))), vectors)

    return ForeignVectors(path, count, blocks)


def vectors_in_memory(vectors: Any, ids: Any) -> ForeignVectors:
    """Vectors [n, d] that Python holds, with the list of their n ids, or the file that lists them.

    Raises:
        UserError: they are no numbers of that shape, or there are not n ids.
    """
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The vectors are not numbers ({error}): give an array of shape [number, dimensions]."
        ) from error
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"The vectors have shape {array.shape}: give an array of shape [number, dimensions].")
    if ids is None:
        raise UserError("These vectors come without ids: give one for each with `ids`.")
    listed = read_ids(Path(ids)) if isinstance(ids, str | Path) else map(str, ids)
    names = [checked_id(doc_id, f"`ids`, number {number}") for number, doc_id in enumerate(listed, 1)]
    if len(names) != len(array):
        raise UserError(f"There are {len(array):,} vectors and {len(names):,} `ids`: give one for each vector.")
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(array).data)

    def blocks() -> Iterator[VectorBlock]:
        for start in range(0, len(array), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            yield VectorBlock(without_texts(names[start:stop]), array[start:stop])

    return ForeignVectors(Path(f"vectors-{digest.hexdigest()[:12]}"), len(array), blocks, in_memory=True)


def _map(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a NumPy array ({error}): write it with numpy.save.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise UserError(f"{path} holds {found}: give floating-point vectors of shape [number, dimensions].")
    return array
