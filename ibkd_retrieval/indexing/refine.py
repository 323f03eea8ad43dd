"""Exact scores for the candidates of an approximate search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.vector_source import VectorSource

_FEW = 512
"""Scores that are sorted as fast as the largest among them are parted off."""


def rescore(
    queries: NDArray[np.float32], candidates: NDArray[np.int64], vectors: VectorSource, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keep the k best of each query's candidates by exact inner product.

    The vectors are read from their memory-mapped shards, so the structure that found the candidates need not carry
    them.

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
    for query, found in enumerate(candidates):
        own = np.sort(found[found >= 0])
        exact = vectors.products(own, queries[query])
        best = _best(exact, k)
        scores[query, : len(best)] = exact[best]
        rows[query, : len(best)] = own[best]
    return scores, rows


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The places of the k largest, best first; equal ones in their order."""
    if len(scores) <= max(k, _FEW):
        return np.argsort(-scores, kind="stable")[:k]
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    reaching = np.flatnonzero(scores >= least)
    return reaching[np.argsort(-scores[reaching], kind="stable")][:k]
