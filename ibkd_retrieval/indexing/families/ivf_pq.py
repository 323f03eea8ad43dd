"""Approximate search: inverted lists of product-quantised vectors, refined with the exact ones."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family
from ibkd_retrieval.indexing.families.flat import Flat
from ibkd_retrieval.indexing.manifest import OperatingPoint, SearchDefaults
from ibkd_retrieval.indexing.refine import rescore
from ibkd_retrieval.indexing.shards import ShardVectors
from ibkd_retrieval.progress import Progress

FEWEST_DOCUMENTS = 1000
POINTS_PER_LIST = 39
"""Training vectors below which faiss calls a centroid poorly placed."""

TARGET_RECALL = 0.98
"""Asked of documents taken as queries. Questions lie further from the documents: 0.98 was 0.945 to 0.966 on theirs."""

_TRIED_QUERIES = 256
_TRIED_REFINEMENTS = (4, 8, 16, 32)
_NEIGHBOURS = 10


@dataclass(frozen=True)
class IvfPq:
    """`IVF{lists},PQ{dim/4}x4fs`: four dimensions in four bits, so 1/32 of float32, and eight bytes for the id.

    Chosen by measurement, at equal code size, after refinement (MiniLM, 384 dimensions, recall@10 of real queries
    against exact search): on 41,200 documents of seven collections `PQ96x4fs` reached 0.966 at nprobe 128 and refine
    8 after 2 s of training, and `PQ48x8np` 0.963 after 8 s and at four times the search time. Refinement makes up for
    the coarse codes: twice the bytes (`PQ192x4fs`, `PQ96x8np`) gave 0.975.

    Attributes:
        lists: number of inverted lists; by default 4 sqrt(n), and no more than leave 39 documents to each.
        subquantisers: codes per vector, a divisor of the dimension; by default one for four dimensions.
        bits: of a code, 4 (fast scan) or 8.
        nprobe: lists visited by default; chosen by trial if None.
        refine: candidates scored exactly per result by default; chosen by trial if None.
        seed: of the training sample and of the documents tried as queries.
    """

    name: ClassVar[str] = "ivf-pq"

    lists: int | None = None
    subquantisers: int | None = None
    bits: int = 4
    nprobe: int | None = None
    refine: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: one is out of range.
        """
        if self.bits not in (4, 8):
            raise UserError(f"An ivf-pq index has codes of 4 or 8 bits, not {self.bits}.")
        for option in ("lists", "subquantisers", "nprobe"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UserError(f"The option {option} of an ivf-pq index must be at least 1, not {value}.")
        if self.refine is not None and self.refine < 0:
            raise UserError(f"The option refine of an ivf-pq index must be 0 (off) or more, not {self.refine}.")

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents, where quantisers cannot be trained and exact search costs nothing."""
        if count >= FEWEST_DOCUMENTS:
            return self
        progress.say(
            f"{count:,} documents are too few to train an ivf-pq index (it takes {FEWEST_DOCUMENTS:,}): "
            "building a flat one, which is exact and keeps whole vectors in memory."
        )
        return Flat()

    def build(self, vectors: ShardVectors, progress: Progress) -> BuiltStructure:
        """Train on a random sample of all shards, add shard by shard, then choose nprobe and refine by trial.

        Raises:
            UserError: the number of sub-quantisers does not divide the dimension.
        """
        faiss = load_faiss()
        blas_threshold(vectors.dim)
        lists = self._lists(vectors.count, progress)
        codes = f"PQ{self._subquantisers(vectors.dim)}x{'4fs' if self.bits == 4 else '8np'}"
        factory = f"IVF{lists},{codes}"
        index = faiss.index_factory(vectors.dim, factory, faiss.METRIC_INNER_PRODUCT)
        # 64 vectors place a list's centroid well; the codes need 39 for each of their 2^bits centroids.
        sample = max(64 * lists, (POINTS_PER_LIST + 1) << self.bits)
        with progress.task(f"Training {factory}", None, "vectors") as task:
            training = _sample(vectors, sample, np.random.default_rng(self.seed))
            index.train(training)
            task.advance(len(training))
        del training
        with progress.task("Adding vectors", vectors.count, "vectors") as task:
            for shard in vectors:
                index.add(np.ascontiguousarray(shard))
                task.advance(len(shard))
        search, points = self._choose(index, vectors, lists, progress)
        return BuiltStructure(index, factory, search, points)

    def _lists(self, count: int, progress: Progress) -> int:
        most = max(1, count // POINTS_PER_LIST)
        if self.lists is not None and self.lists > most:
            progress.say(f"{self.lists:,} inverted lists are too many for {count:,} documents: making {most:,}.")
        return min(self.lists or int(4 * math.sqrt(count)), most)

    def _subquantisers(self, dim: int) -> int:
        if self.subquantisers is None:
            return next(number for number in range(max(1, dim // 4), 0, -1) if dim % number == 0)
        if dim % self.subquantisers:
            raise UserError(
                f"{self.subquantisers} sub-quantisers do not divide vectors of {dim} dimensions: name a divisor of it."
            )
        return self.subquantisers

    def _choose(
        self, index: Any, vectors: ShardVectors, lists: int, progress: Progress
    ) -> tuple[SearchDefaults, tuple[OperatingPoint, ...]]:
        """Try settings from cheap to dear, until one finds enough of the exact neighbours of sampled documents."""
        rows = _sample_rows(vectors.count, _TRIED_QUERIES, np.random.default_rng(self.seed + 1))
        queries = vectors.gather(rows)
        refinements = _TRIED_REFINEMENTS if self.refine is None else (self.refine,)
        points: list[OperatingPoint] = []
        with progress.task("Trying search settings", None, "settings") as task:
            truth = _neighbours(rows, _exact(queries, vectors, _NEIGHBOURS + 1))
            for nprobe in _doubling(lists) if self.nprobe is None else (min(self.nprobe, lists),):
                for refine in refinements:
                    start = time.perf_counter()
                    found = search_ivf(index, queries, _NEIGHBOURS + 1, nprobe, refine, vectors)[1]
                    milliseconds = 1000 * (time.perf_counter() - start) / len(queries)
                    recall = _recall(_neighbours(rows, found), truth)
                    points.append(OperatingPoint(nprobe, refine, round(recall, 4), round(milliseconds, 4)))
                    task.advance(1, f"nprobe {nprobe}, refine {refine}: recall@10 {recall:.3f}")
                if points[-1].recall_at_10 >= TARGET_RECALL:
                    break
        good = [point for point in points if point.recall_at_10 >= TARGET_RECALL]
        chosen = good[0] if good else max(points, key=lambda point: point.recall_at_10)
        if not good:
            progress.say(
                f"This index finds {chosen.recall_at_10:.1%} of the exact ten nearest documents at nprobe "
                f"{chosen.nprobe} and refine {chosen.refine}, the best of what was tried."
            )
        return SearchDefaults(chosen.nprobe, chosen.refine), tuple(points)


def default_effort(defaults: SearchDefaults, k: int, lists: int, count: int) -> SearchDefaults:
    """Adapt settings that were chosen for ten results to k results.

    Enough lists are visited to hold about 16 k documents, since those visited bound what can be found: with 5,183
    documents, nprobe 32 of 132 finds 71 % of the exact thousand nearest and this rule all of them. From k = 500 on no
    more than 4 k candidates are refined, which takes half the time of 8 k and finds 97.6 % instead of 98.2 %
    (41,200 documents, k = 1,000).
    """
    nprobe = max(defaults.nprobe or 1, math.ceil(16 * k * lists / max(1, count)))
    refine = defaults.refine or 0
    return SearchDefaults(min(nprobe, lists), refine if k < 500 else min(refine, 4))


def search_ivf(
    index: Any,
    queries: NDArray[np.float32],
    k: int,
    nprobe: int,
    refine: int,
    vectors: ShardVectors,
    selector: Any = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search inverted lists for k x refine candidates and keep the k best by exact score.

    Args:
        index: a faiss IndexIVF.
        queries: [q, dim].
        k: number of results.
        nprobe: lists visited.
        refine: candidates per result; 0 gives the scores of the codes as they are.
        vectors: the exact vectors.
        selector: a faiss IDSelector of the rows that may be found, None for all.

    Returns:
        Scores [q, k], not increasing, and rows [q, k], padded with -1 (whose scores mean nothing without refinement).
    """
    parameters = load_faiss().SearchParametersIVF(nprobe=nprobe, sel=selector)
    if not refine:
        scores, rows = index.search(queries, k, params=parameters)
        return scores, rows
    candidates = min(k * refine, vectors.count)
    results = []
    # Blocks of queries bound the memory that candidates take, k times refine of them each.
    for start in range(0, len(queries), 256):
        block = queries[start : start + 256]
        results.append(rescore(block, index.search(block, candidates, params=parameters)[1], vectors, k))
    if not results:
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    return np.concatenate([scores for scores, _ in results]), np.concatenate([rows for _, rows in results])


def _sample_rows(count: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(generator.choice(count, min(size, count), replace=False)).astype(np.int64)


def _sample(vectors: ShardVectors, size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    return vectors.gather(_sample_rows(vectors.count, size, generator))


def _doubling(most: int) -> Iterator[int]:
    value = 4
    while value < most:
        yield value
        value *= 2
    yield most


def _exact(queries: NDArray[np.float32], vectors: ShardVectors, k: int) -> NDArray[np.int64]:
    """Rows [q, k] of the largest inner products, shard by shard; k must not exceed the number of vectors."""
    faiss = load_faiss()
    scores = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    start = 0
    for shard in vectors:
        here = faiss.knn(queries, np.ascontiguousarray(shard), min(k, len(shard)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, here[0]], axis=1)
        rows = np.concatenate([rows, here[1] + start], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        start += len(shard)
    return rows


def _neighbours(own: NDArray[np.int64], found: NDArray[np.int64]) -> list[set[int]]:
    """The ten nearest of each query but itself, which any search finds and which would flatter the recall."""
    return [{int(row) for row in rows if row not in (-1, me)} for me, rows in zip(own, found, strict=True)]


def _recall(found: list[set[int]], truth: list[set[int]]) -> float:
    return float(np.mean([len(a & b) / max(1, len(b)) for a, b in zip(found, truth, strict=True)]))
