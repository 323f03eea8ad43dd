"""Imports faiss and makes its process-wide settings. No other module does either.

faiss and torch each start an OpenMP pool. OpenMP reads its environment once, when the first of the two is loaded.
By default, idle threads spin and take the cores from threads that work: training product quantisers on busy cores
took 28 s instead of 3 s. `OMP_WAIT_POLICY=PASSIVE` is therefore set here, and by the command line before any heavy
import. A program that imports torch before it calls `load_faiss` should set the variable itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.files import atomic_write


def load_faiss() -> Any:
    """Import faiss and return the module (typed `Any`: faiss ships no type hints).

    Raises:
        MissingPackage: neither faiss-cpu nor faiss-gpu is installed.
    """
    loaded = sys.modules.get("faiss")
    if loaded is not None:
        return loaded  # Every search calls this several times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingPackage("faiss", "Building or searching an index", "cpu") from error


def blas_threshold(dim: int) -> None:
    """Make exact search over vectors of length `dim` use BLAS from four queries on.

    faiss compares (queries x dim) with a process-wide threshold of 128,000 since 1.14.2, which leaves 64 queries of
    768 dimensions on a path 13 times slower. One query is as fast either way. Call it before searching.
    """
    load_faiss().cvar.distance_compute_blas_threshold = 4 * dim


def read_structure_file(path: Path, flags: int = 0) -> Any:
    """Read a faiss index, which may keep its inverted lists in a file beside it and nowhere else.

    Raises:
        UserError: it names a file outside its folder, which faiss would open for writing.
        RuntimeError: faiss cannot read it.
    """
    for name in _lists_on_disk(path):
        if path.parent.resolve() not in Path(os.path.realpath(name)).parents:
            raise UserError(f"{path} keeps its inverted lists in {name!r}, outside its folder: it is not opened.")
    return load_faiss().read_index(str(path), flags)


def _lists_on_disk(path: Path) -> Iterator[str]:
    """The names of the files that a faiss index keeps inverted lists in.

    Each follows four letters and the tables of lists and of free slots (OnDiskInvertedListsIOHook::write).
    """
    mark, step = b"ilod", 1 << 24
    with open(path, "rb") as file:
        found, start, before = [], 0, b""
        while data := file.read(step):
            block = before + data
            place = block.find(mark)
            while place >= 0:
                found.append(start - len(before) + place)
                place = block.find(mark, place + 1)
            start += len(data)
            before = block[1 - len(mark) :]
        for place in found:
            file.seek(place + len(mark) + 16)
            for item in (24, 16):
                file.seek(item * _count(file), os.SEEK_CUR)
                if file.tell() > start:
                    break
            else:
                length = _count(file)
                name = file.read(min(length, 1 << 16))
                if length == len(name) and file.read(8):
                    yield os.fsdecode(name)


def _count(file: IO[bytes]) -> int:
    return min(int.from_bytes(file.read(8), "little"), 1 << 56)


def write_structure(index: Any, path: Path) -> None:
    """Write a faiss index.

    faiss writes through the Python file, so that a full disk is the same OSError as everywhere else.

    Raises:
        OSError: the file cannot be written.
    """
    faiss = load_faiss()
    with atomic_write(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))
