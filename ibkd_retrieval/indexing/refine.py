"""Exact scores for the candidates of an approximate search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.vector_source import VectorSource

_BLOCK_BYTES = 64 << 20


def rescore(
    queries: NDArray[np.float32], candidates: NDArray[np.int64], vectors: VectorSource, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the k best of each query's candidates by exact inner product.

    The vectors are read from their memory-mapped shards, for as many queries together as 64 MiB hold, so the
    structure that found the candidates need not carry them.

    Args:
        queries: [q, dim].
        candidates: rows [q, c], padded with -1.
        vectors: the vectors of all rows.
        k: number of results.

    Returns:
        Scores [q, k], not increasing, padded with -inf, and rows [q, k], padded with -1. Equal scores are ordered
        by row.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    block = max(1, _BLOCK_BYTES // max(1, candidates.shape[1] * vectors.dim * 4))
    for start in range(0, len(queries), block):
        wanted, places = np.unique(candidates[start : start + block], return_inverse=True)
        places = places.reshape(-1, candidates.shape[1])
        # np.unique sorts, so the padding, if there is any, comes first.
        padding = int(len(wanted) > 0 and wanted[0] < 0)
        exact = vectors.gather(wanted[padding:])
        for query in range(len(places)):
            own = places[query][places[query] >= padding]
            own_scores = exact[own - padding] @ queries[start + query]
            best = np.lexsort((wanted[own], -own_scores))[:k]
            scores[start + query, : len(best)] = own_scores[best]
            rows[start + query, : len(best)] = wanted[own[best]]
    return scores, rows
