"""Hybrid search: the results of several rankers are fused."""

from __future__ import annotations

from collections.abc import Sequence

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranker import Ranker
from ibkd_retrieval.search.runs.fusion import checked_weights, reciprocal_rank_fusion, weighted_sum
from ibkd_retrieval.search.runs.run import Hit, Run

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
        """The k best documents for one query, with their text, best first; fewer where all find fewer.

        Raises:
            UserError: the query is empty or k is below 1.
        """
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
        """The k best documents for each query, as a run whose queries stand in the order given.

        Raises:
            UserError: a ranker refuses a query, a query id appears twice, or k is below 1.
        """
        runs = [ranker.search_batch(queries, max(k, self.depth), progress) for ranker in self.rankers]
        return self._fused(runs, tag).first(k)

    def _fused(self, runs: Sequence[Run], tag: str) -> Run:
        if self.method == "rrf":
            return reciprocal_rank_fusion(runs, tag=tag, weights=self.weights)
        return weighted_sum(runs, self.weights, tag=tag)
