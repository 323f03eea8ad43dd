"""Vectors in a NumPy file, their ids in another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def _map(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a NumPy array ({error}): write it with numpy.save.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise UserError(f"{path} holds {found}: give floating-point vectors of shape [number, dimensions].")
    return array
