"""Opens vectors written by other tools: NumPy arrays, parquet, files of faiss, and folders of Pyserini and Tevatron."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.columns import AUTOMATIC, DOCUMENT, Fields, Kind
from ibkd_retrieval.corpora.records import checked_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.contents import IndexContents, open_contents
from ibkd_retrieval.indexing.importing import BLOCK_ROWS, ForeignVectors, VectorBlock, VectorsDigest, without_texts
from ibkd_retrieval.indexing.importing.documents import read_ids, require_as_many
from ibkd_retrieval.indexing.importing.faiss_files import is_faiss, is_pyserini, open_faiss, open_pyserini
from ibkd_retrieval.indexing.importing.parquet import open_parquet_vectors

_FORMS = (
    "a .npy or .faiss file with `ids`, a folder of vectors.npy and ids.txt, a .parquet file or a folder of them, a "
    "Pyserini folder (index, docid), or a .pkl file of Tevatron or a folder of them"
)


def open_vectors(
    path: Any,
    *,
    ids: Any = None,
    allow_pickle: bool = False,
    kind: Kind = DOCUMENT,
    fields: Fields = AUTOMATIC,
    vector_field: str | None = None,
    incomplete: bool = False,
) -> ForeignVectors:
    """Open vectors.

    Args:
        path: a `.npy` file; a file of faiss; a folder of `vectors.npy` and `ids.txt`; a `.parquet` file or a folder of
            such; a folder of Pyserini's; a `.pkl` file of Tevatron's or a folder of such; or the vectors [n, d]
            themselves.
        ids: the file of the ids of a `.npy` file (`documents.read_ids`) or of a file of faiss. For vectors in memory,
            also a list of n ids.
        allow_pickle: unpickle Tevatron's files. Only for trusted files.
        kind: what the texts of parquet files are. It decides the usual names of their columns.
        fields: columns of parquet files that have other names.
        vector_field: the column of the vectors in parquet files, if it has another name.
        incomplete: leave out rows of parquet files that have no vector, and take files with texts and no id column.

    Raises:
        UserError: there is nothing of these forms, ids are missing or given twice, or pickle is not allowed.
    """
    if not isinstance(path, str | Path):
        return vectors_in_memory(path, ids)
    if not (ids is None or isinstance(ids, str | Path)):
        raise UserError(f"The `ids` of vectors in a file are in a file too: give its path beside {path}.")
    path, ids = Path(path), None if ids is None else Path(ids)
    if not path.exists():
        raise UserError(f"There is no {path}: give {_FORMS}.")
    array = path / "vectors.npy" if path.is_dir() else path
    if array.is_file() and array.suffix == ".npy":
        beside = path / "ids.txt"
        ids = ids or (beside if beside.is_file() else None)
        if ids is None:
            raise UserError(f"{array} holds vectors without ids: name the file that lists them with `ids`.")
        return open_array(array, ids)
    if is_faiss(path):
        return open_faiss(path, ids)
    if ids is not None:
        raise UserError(f"{path} brings its own ids: leave out `ids`, which belongs to a .npy or .faiss file.")
    if is_pyserini(path):
        return open_pyserini(path)
    tables = [path] if path.suffix == ".parquet" and path.is_file() else sorted(path.glob("*.parquet"))
    if tables:
        return open_parquet_vectors(path, tables, kind, fields, vector_field=vector_field, incomplete=incomplete)
    pickles = tevatron_files(path)
    if pickles:
        return open_tevatron(path, pickles, allow_pickle=allow_pickle)
    raise UserError(f"{path} holds no vectors of a known form: give {_FORMS}.")


def open_array(path: Path, ids: Path) -> ForeignVectors:
    """Open a `.npy` file of vectors [n, d], float16, float32 or float64, and the list of their n ids.

    Raises:
        UserError: the file holds something else, or another number of vectors than there are ids.
    """
    count = len(_map(path))
    require_as_many(count, path, ids)
    return _array(path, count, lambda: read_ids(ids))


def rows_in_order(path: Path) -> ForeignVectors:
    """Open a `.npy` file of vectors [n, d] without ids. These are 1, 2, ..., n."""
    return _array(path, len(_map(path)), lambda: map(str, numbers(1)))


def index_vectors(folder: Path) -> ForeignVectors:
    """The vectors of an index with their documents. Deleted documents are left out."""
    contents = open_contents(folder)

    def blocks() -> Iterator[VectorBlock]:
        for number in range(len(contents.manifest.shards)):
            for rows in contents.shard_rows(number):
                yield VectorBlock(*rows)

    return ForeignVectors(folder, len(contents), blocks)


def vectors_digest(index: IndexContents) -> str:
    """The digest of the vectors of an index, as it is recorded when vectors are imported without their model."""
    digest = VectorsDigest()
    for vectors in index.vectors():
        digest.update(vectors)
    return digest.hexdigest()


def _array(path: Path, count: int, names_of: Callable[[], Iterator[str]]) -> ForeignVectors:
    def blocks() -> Iterator[VectorBlock]:
        names = names_of()
        for start in range(0, count, BLOCK_ROWS):
            # Mapped again for each block. Pages that were read stay in memory as long as their map.
            vectors = np.array(_map(path)[start : start + BLOCK_ROWS], dtype=np.float32)
            yield VectorBlock(without_texts(islice(names, len(vectors))), vectors)

    return ForeignVectors(path, count, blocks)


def vectors_in_memory(vectors: Any, ids: Any) -> ForeignVectors:
    """Vectors [n, d] in memory, with a list of n ids or the file that lists them.

    Raises:
        UserError: they are not numbers of that shape, or there are not n ids.
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
    """The pickle files at `path`, in the order of the numbers in their names."""
    files = [path] if path.is_file() else [each for each in path.iterdir() if each.is_file()]
    return sorted((each for each in files if each.suffix in SUFFIXES), key=_natural)


def open_tevatron(path: Path, files: list[Path], *, allow_pickle: bool) -> ForeignVectors:
    """Open corpora that Tevatron encoded: pickle files, each with an array of vectors and a list of ids.

    One file at a time is in memory.

    Only arrays, texts and numbers are unpickled, and a file that names anything else is refused. An attack is
    harder then, but not impossible, because numpy's own unpickling is not made for hostile files.

    Args:
        path: the path that the user gave, a file or a folder.
        files: the files, in reading order.
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
            yield _read_pickle(each)

    return ForeignVectors(path, None, blocks)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 1 had another name for this module.
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither an array nor a text")
        return super().find_class(module, name)


def _read_pickle(path: Path) -> VectorBlock:
    try:
        with open(path, "rb") as file:
            value = _ArraysOnly(file).load()
    # A damaged pickle can raise any exception.
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
