"""Detects the format of the vectors at a path."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing.arrays import open_array
from ibkd_retrieval.indexing.importing.foreign import ForeignVectors
from ibkd_retrieval.indexing.importing.parquet import open_parquet_vectors
from ibkd_retrieval.indexing.importing.pyserini import is_pyserini, open_pyserini
from ibkd_retrieval.indexing.importing.tevatron import open_tevatron, tevatron_files

_FORMS = (
    "a .npy file with `ids`, a folder of vectors.npy and ids.txt, a .parquet file or a folder of them, a Pyserini "
    "folder (index, docid), or a .pkl file of Tevatron or a folder of them"
)


def open_vectors(path: Path | str, *, ids: Path | None = None, allow_pickle: bool = False) -> ForeignVectors:
    """Open vectors for import.

    Args:
        path: a `.npy` file; a folder of `vectors.npy` and `ids.txt`; a `.parquet` file or a folder of such; a folder
            of Pyserini's; a `.pkl` file of Tevatron's or a folder of such.
        ids: list of the ids of a `.npy` file (`ids.read_ids`).
        allow_pickle: unpickle Tevatron's files. Only for trusted files.

    Raises:
        UserError: there is nothing of these forms, ids are missing or given twice, or pickle is not allowed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no {path}: give {_FORMS}.")
    array = path / "vectors.npy" if path.is_dir() else path
    if array.is_file() and array.suffix == ".npy":
        beside = path / "ids.txt"
        ids = ids or (beside if beside.is_file() else None)
        if ids is None:
            raise UserError(f"{array} holds vectors without ids: name the file that lists them with `ids`.")
        return open_array(array, ids)
    if ids is not None:
        raise UserError(f"{path} brings its own ids: leave out `ids`, which belongs to a .npy file.")
    if is_pyserini(path):
        return open_pyserini(path)
    tables = [path] if path.suffix == ".parquet" and path.is_file() else sorted(path.glob("*.parquet"))
    if tables:
        return open_parquet_vectors(path, tables)
    pickles = tevatron_files(path)
    if pickles:
        return open_tevatron(path, pickles, allow_pickle=allow_pickle)
    raise UserError(f"{path} holds no vectors of a known form: give {_FORMS}.")
