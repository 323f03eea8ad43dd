"""The formats in which a shard stores its vectors: float32, float16 or int8.

| format  | bytes a vector | numpy type of a row                           | largest error of a component |
|---------|----------------|-----------------------------------------------|------------------------------|
| float32 | 4 dim          | float32 [dim]                                 | none                         |
| float16 | 2 dim          | float16 [dim]                                 | 1/2048 of its value          |
| int8    | dim + 4        | record of `scale` (float32) and `codes` int8 [dim] | 1/254 of the vector's largest |

An int8 component is code x scale, where the scale of a vector is its largest absolute component / 127.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import load_faiss

FORMATS = ("float32", "float16", "int8")


def check_format(name: str) -> str:
    """Return `name`.

    Raises:
        UserError: there is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"There is no vector format {name!r}: choose one of {', '.join(FORMATS)} with `vectors`.")
    return name


def row_type(name: str, dim: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The numpy type of a file in a format, and the shape of a row in it."""
    if name == "int8":
        return np.dtype([("scale", "<f4"), ("codes", "i1", (dim,))]), ()
    return np.dtype(name), (dim,)


def bytes_per_vector(name: str, dim: int) -> int:
    """Size of a stored vector."""
    kind, shape = row_type(name, dim)
    return int(kind.itemsize * np.prod(shape, dtype=np.int64))


def pack(vectors: NDArray[np.float32], name: str) -> NDArray[Any]:
    """Put vectors [n, dim] into a format.

    Raises:
        UserError: a component is too large for float16.
    """
    if name == "float16":
        with np.errstate(over="ignore"):
            half = vectors.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError("A vector has components beyond float16's 65,504: store them with `vectors='float32'`.")
        return half
    if name == "int8":
        kind, _ = row_type(name, vectors.shape[1])
        rows = np.empty(len(vectors), dtype=kind)
        rows["scale"] = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)
        divisor = np.where(rows["scale"] > 0, rows["scale"], np.float32(1))
        # A subnormal scale divides imprecisely, so the codes are clipped to their range.
        rows["codes"] = np.clip(np.rint(vectors / divisor[:, None]), -127, 127)
        return rows
    return np.ascontiguousarray(vectors, dtype=np.float32)


def inner_products(rows: NDArray[Any], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inner products [n] of rows of a file in any format with a query [dim]."""
    if rows.dtype.names:
        products: NDArray[np.float32] = rows["codes"].astype(np.float32) @ query
        products *= rows["scale"]
        return products
    if rows.dtype != np.float16:
        return np.asarray(rows @ query, dtype=np.float32)
    scores, places = _search_halves(rows, query, len(rows))
    products = np.empty(len(rows), dtype=np.float32)
    products[places] = scores
    return products


def nearest(rows: NDArray[Any], query: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest inner products of rows of a file in any format with a query [dim], and their positions.

    Best first, equal products by position. Fewer than k where there are fewer rows.
    """
    if rows.dtype == np.float16 and len(rows) > k:
        # faiss keeps any of several that are equal at the last place. One more shows whether there are.
        scores, places = _search_halves(rows, query, k + 1)
        if scores[k - 1] > scores[k]:
            order = np.lexsort((places[:k], -scores[:k]))
            return scores[order], places[order]
    products = inner_products(rows, query)
    best = _best(products, k)
    return products[best], best


_FEW = 512
"""Maximum number of scores for which a full sort is as fast as a partition."""


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The positions of the k largest, best first. Ties keep their order."""
    if len(scores) <= max(k, _FEW):
        return np.argsort(-scores, kind="stable")[:k]
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    reaching = np.flatnonzero(scores >= least)
    return reaching[np.argsort(-scores[reaching], kind="stable")][:k]


def _search_halves(
    rows: NDArray[Any], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest inner products of float16 rows with a query, and their positions, best first."""
    # numpy widens float16 one number at a time; faiss multiplies it four times as fast.
    table = _half_table(len(query))
    table.reset()
    table.add_sa_codes(np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), 2 * len(query)))
    scores, places = table.search(query[None], k)
    return scores[0], places[0]


_of_thread = threading.local()


def _half_table(dim: int) -> Any:
    """A faiss table of float16 vectors for this thread. Creating one costs more than multiplying a few rows."""
    table = getattr(_of_thread, "table", None)
    if table is None or table.d != dim:
        faiss = load_faiss()
        table = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        _of_thread.table = table
    return table


def unpack(rows: NDArray[Any]) -> NDArray[np.float32]:
    """float32 vectors [n, dim] from rows of a file in any format. float32 rows are not copied."""
    if rows.dtype.names:
        vectors: NDArray[np.float32] = rows["codes"].astype(np.float32)
        vectors *= rows["scale"][:, None]
        return vectors
    return rows if rows.dtype == np.float32 else rows.astype(np.float32)


def format_of(rows: NDArray[Any], dim: int) -> str | None:
    """The format of an array read from a file. None if it holds no vectors of dimension `dim`."""
    for name in FORMATS:
        kind, shape = row_type(name, dim)
        if rows.dtype == kind and rows.shape[1:] == shape and rows.ndim == 1 + len(shape):
            return name
    return None
