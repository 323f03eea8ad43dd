"""Reads corpora encoded by Tevatron: pickle files, each with an array of vectors and a list of ids."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.records import checked_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing.foreign import ForeignVectors, VectorBlock, without_texts

SUFFIXES = (".pkl", ".pickle")

WHY_UNSAFE = "a pickle file can run any program on this machine while it is read"

_ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


def tevatron_files(path: Path) -> list[Path]:
    """The pickle files that `path` is or holds, those numbered in the order of their numbers."""
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    return sorted((each for each in files if each.suffix in SUFFIXES), key=_natural)


def open_tevatron(path: Path, files: list[Path], *, allow_pickle: bool) -> ForeignVectors:
    """Open encoded corpora. Each file is in memory while it is read, one at a time.

    Only arrays, texts and numbers are built from them, and a file that names anything else is refused. That makes an
    attack harder, not impossible: numpy's own unpickling was never made for hostile files.

    Args:
        path: what the user named, a file or the folder of the files.
        files: to read in this order.
        allow_pickle: whether the user trusts the files.

    Raises:
        UserError: `allow_pickle` is false.
    """
    if not allow_pickle:
        raise UserError(
            f"{files[0]} is a pickle file, and {WHY_UNSAFE}: if you made it yourself or trust whoever did, say so "
            "with `allow_pickle`."
        )

    def blocks() -> Iterator[VectorBlock]:
        for each in files:
            yield _read(each)

    return ForeignVectors(path, None, blocks)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Arrays pickled under numpy 1 name the module by the place it then had.
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither an array nor a text")
        return super().find_class(module, name)


def _read(path: Path) -> VectorBlock:
    try:
        with open(path, "rb") as file:
            value = _ArraysOnly(file).load()
    # A damaged pickle raises whatever its bytes happen to spell.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as an encoded corpus of Tevatron ({error}): encode it again."
        ) from error
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray)):
        raise UserError(f"{path} is not an encoded corpus of Tevatron: it should hold an array and a list of ids.")
    vectors, ids = value[0], list(value[1])
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise UserError(f"{path} holds {vectors.dtype} {vectors.shape}: floating-point vectors [number, d] are due.")
    if len(ids) != len(vectors):
        raise UserError(f"{path} holds {len(vectors):,} vectors and {len(ids):,} ids: encode it again.")
    names = [
        checked_id(each.item() if isinstance(each, np.generic) else each, f"{path}, vector {number}")
        for number, each in enumerate(ids, 1)
    ]
    return VectorBlock(without_texts(names), vectors.astype(np.float32))


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
