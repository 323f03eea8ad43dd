"""Exact search over an array or files, and exact rescoring of an approximate search's candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.vectors import VectorBlocks, VectorSource

Found = tuple[NDArray[np.float32], NDArray[np.int64]]

_BLOCK_BYTES = 64 << 20


def with_ties_by_row(search: Callable[[NDArray[np.float32], int], Found], most: int) -> Callable[..., Found]:
    """Make an exact search order equal scores by row and, at the last place, keep those of the smallest rows.

    faiss does not define which of several equal scores it keeps. One extra result shows whether the last score
    continues beyond k. If it does, twice as many results are fetched each time, for those queries only.

    Args:
        search: takes queries [q, dim] and k, gives scores and rows [q, k].
        most: number of rows that can be found; k may not exceed it.
    """

    def ordered(queries: NDArray[np.float32], k: int) -> Found:
        scores = np.empty((len(queries), k), dtype=np.float32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        left = np.arange(len(queries))
        fetched = min(most, k + 1)
        while len(left):
            found, places = search(queries[left], fetched)
            # Scores come in descending order, and seldom are any of a query equal.
            tied = np.flatnonzero((found[:, 1:] == found[:, :-1]).any(axis=1))
            order = np.lexsort((places[tied], -found[tied]), axis=1)
            places[tied] = np.take_along_axis(places[tied], order, axis=1)
            scores[left], rows[left] = found[:, :k], places[:, :k]
            if fetched == most:
                break
            left = left[found[:, k - 1] == found[:, -1]]
            fetched = min(most, 2 * fetched)
        return scores, rows

    return ordered


def search_array(queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int) -> Found:
    """The k rows of `vectors` [n, dim] of largest inner product for each query. k is at most n.

    Returns:
        Scores [q, k], not increasing, and rows [q, k]; equal scores are ordered by row.
    """
    faiss = load_faiss()

    def nearest(asked: NDArray[np.float32], number: int) -> Found:
        scores, rows = faiss.knn(asked, vectors, number, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, rows

    return with_ties_by_row(nearest, len(vectors))(queries, k)


def scan(
    queries: NDArray[np.float32],
    vectors: VectorBlocks,
    k: int,
    allowed: NDArray[np.bool_] | None = None,
) -> Found:
    """The k rows of largest inner product for each query, reading all vectors once in blocks of 64 MiB.

    Memory holds one block and the k best results of each query, for any number of vectors.

    Args:
        queries: query vectors [q, dim].
        vectors: the vectors to search.
        k: number of results, at most the number of rows that may be found.
        allowed: bool [n], True for rows that may be found.

    Returns:
        Scores [q, k], not increasing, and rows [q, k]; equal scores are ordered by row.
    """
    scores = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    height = max(1, _BLOCK_BYTES // (4 * vectors.dim))
    start = 0
    for shard in vectors:
        for offset in range(0, len(shard), height):
            block = shard[offset : offset + height]
            places = np.arange(start + offset, start + offset + len(block))
            if allowed is not None:
                mask = allowed[places]
                block, places = block[mask], places[mask]
            if not len(block):
                continue
            here, found = search_array(queries, np.ascontiguousarray(block), min(k, len(block)))
            scores, rows = best_of((scores, rows), (here, places[found]), k)
        start += len(shard)
    return scores, rows


def best_of(found: Found, later: Found, k: int) -> Found:
    """The k best of the results of two searches for the same queries, of which `later` was among later rows.

    Results of `found` stand first and the sort is stable, so that equal scores stay ordered by row.
    """
    scores = np.concatenate([found[0], later[0]], axis=1)
    rows = np.concatenate([found[1], later[1]], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)


def better_of(one: Found, other: Found, k: int) -> Found:
    """The k best of the results of two searches for the same queries, equal scores ordered by row.

    It can be called for the results of many searches in any order.
    """
    scores = np.concatenate([one[0], other[0]], axis=1)
    rows = np.concatenate([one[1], other[1]], axis=1)
    best = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)


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
        if len(own):
            best, places = vectors.nearest(own, queries[query], k)
            scores[query, : len(best)] = best
            rows[query, : len(best)] = own[places]
    return scores, rows
