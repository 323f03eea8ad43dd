"""The interface of rankers, the checks of their queries, and rankers made of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.runs import Hit, Run, first_repeated
from ibkd_retrieval.search.runs.doc_ids import as_ids
from ibkd_retrieval.search.runs.fusion import checked_weights, reciprocal_rank_fusion, weighted_sum


class Ranker(Protocol):
    """Ranks the documents of an index for queries: by vectors, by words, by both, or by reranking another's results."""

    @property
    def name(self) -> str:
        """The name in tables and messages."""

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The best documents for one query, at most k, with their text, best first.

        Raises:
            UserError: the query is empty or k is below 1.
        """

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents for each query, at most k, as a run. Its queries are in the given order.

        Raises:
            UserError: a query is empty, a query id appears twice, or k is below 1.
        """


def check_queries(queries: Sequence[Query], k: int, *, empty: bool = False) -> None:
    """Check the queries of a ranker.

    Args:
        queries: the queries.
        k: number of results per query.
        empty: whether a query may be empty. Lexical search then finds nothing for it.

    Raises:
        UserError: a query is empty, a query id appears twice, or k is below 1.
    """
    if k < 1:
        raise UserError(f"The number of results must be at least 1, not {k}: ask for 1 or more.")
    ids = [query.query_id for query in queries]
    if len(set(ids)) != len(ids):
        raise UserError(f"Query {first_repeated(ids)} appears twice: give each query its own id.")
    for query in queries if not empty else ():
        if not query.text.strip():
            name = f"Query {query.query_id}" if len(queries) > 1 else "The query"
            raise UserError(f"{name} is empty: type at least one word.")


class ExcludingSelf:
    """Another ranker's results without the document that has the query's id."""

    def __init__(self, base: Ranker) -> None:
        self._base = base

    @property
    def name(self) -> str:
        """The name of the other ranker."""
        return self._base.name

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The other ranker's results, because a typed question has no id."""
        return self._base.search(text, k)

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents, without the query itself. The other ranker is asked for k + 1."""
        check_queries(queries, k)
        return without_own(self._base.search_batch(queries, k + 1, progress, tag), k)


def without_own(run: Run, k: int) -> Run:
    """Drop the document that has the query's id, and keep the first k of the others."""
    counts = np.diff(run.offsets)
    others = run.doc_ids != np.repeat(as_ids(run.query_ids), counts)
    passed = np.concatenate([[0], np.cumsum(others)])
    place = passed[1:] - np.repeat(passed[run.offsets[:-1]], counts)
    kept = others & (place <= k)
    offsets = np.concatenate([[0], np.cumsum(kept)])[run.offsets]
    return Run(run.query_ids, offsets.astype(np.int64), run.doc_ids[kept], run.scores[kept], run.tag)


METHODS = ("rrf", "sum")


class HybridSearcher:
    """A ranker that fuses the results of others, such as dense and lexical search."""

    def __init__(
        self,
        rankers: Sequence[Ranker],
        method: str = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = 1000,
    ) -> None:
        """Join rankers of the same documents.

        Args:
            rankers: two or more.
            method: "rrf" fuses ranks (`fusion.reciprocal_rank_fusion`). "sum" fuses min-max normalised scores
                (`fusion.weighted_sum`), which is better with tuned weights.
            weights: one weight per ranker. None is 1 each for "rrf" and equal shares for "sum".
            depth: results of each ranker that are fused, if k is not larger.

        Raises:
            UserError: there are fewer than two rankers, or a setting is out of range.
        """
        if len(rankers) < 2:
            raise UserError(f"Hybrid search takes two rankers or more: got {len(rankers)}.")
        if method not in METHODS:
            raise UserError(f"There is no fusion {method!r}: choose one of {', '.join(METHODS)}.")
        if depth < 1:
            raise UserError(f"The depth of fusion must be at least 1, not {depth}.")
        if weights is None:
            weights = [1.0 if method == "rrf" else 1 / len(rankers)] * len(rankers)
        self.rankers = tuple(rankers)
        self.method = method
        self.weights = checked_weights(weights, len(rankers))
        self.depth = depth

    @property
    def name(self) -> str:
        """Names of the rankers, joined by "+"."""
        return "+".join(ranker.name for ranker in self.rankers)

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The best documents for one query, with their text."""
        lists = [ranker.search(text, max(k, self.depth)) for ranker in self.rankers]
        runs = [
            Run.from_lists(["query"], [[hit.doc_id for hit in hits]], [[hit.score for hit in hits]]) for hits in lists
        ]
        sources = {hit.doc_id: hit.source for hits in lists for hit in hits}
        ((_, doc_ids, scores),) = self._fused(runs, "ibkd").first(k)
        return [
            Hit(rank, float(score), doc_id, sources[doc_id])
            for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), 1)
        ]

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents for each query."""
        runs = [ranker.search_batch(queries, max(k, self.depth), progress) for ranker in self.rankers]
        return self._fused(runs, tag).first(k)

    def _fused(self, runs: Sequence[Run], tag: str) -> Run:
        if self.method == "rrf":
            return reciprocal_rank_fusion(runs, tag=tag, weights=self.weights)
        return weighted_sum(runs, self.weights, tag=tag)
