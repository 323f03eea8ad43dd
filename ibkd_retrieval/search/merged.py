"""Search several indexes of one encoder as one index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.index import StoredIndex, first_unlike
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranker import check_queries
from ibkd_retrieval.search.runs.run import Hit, Run
from ibkd_retrieval.search.searcher import Searcher


class MergedSearcher:
    """The best documents of all indexes by score. A document in several indexes keeps its best score."""

    def __init__(self, searchers: Sequence[Searcher]) -> None:
        """Join searchers, at least one.

        Raises:
            UserError: their indexes were made by different encoders, whose scores do not compare.
        """
        check_one_encoder([searcher.index for searcher in searchers])
        self._searchers = tuple(searchers)

    @property
    def name(self) -> str:
        """The name in tables and messages."""
        return self._searchers[0].name

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The k best documents of all indexes."""
        query = Query("query", text)
        check_queries([query], k)
        vectors = self._searchers[0].encode([query])
        best: dict[str, Hit] = {}
        for searcher in self._searchers:
            for hit in searcher.hits(vectors, k):
                if hit.doc_id not in best or best[hit.doc_id].score < hit.score:
                    best[hit.doc_id] = hit
        ordered = sorted(best.values(), key=lambda hit: (hit.score, hit.doc_id), reverse=True)[:k]
        return [replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)]

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The k best documents of all indexes for each query."""
        check_queries(queries, k)
        first, *others = self._searchers
        query_ids = [query.query_id for query in queries]
        vectors = first.encode(queries, progress)
        run = first.run(query_ids, vectors, k, progress, tag)
        for searcher in others:
            run = merged(run, searcher.run(query_ids, vectors, k, progress, tag), k)
        return run


def merged(left: Run, right: Run, k: int) -> Run:
    """Merge two runs of the same queries in the same order. A document in both keeps its best score."""
    doc_ids, scores = [], []
    for (_, left_ids, left_scores), (_, right_ids, right_scores) in zip(left, right, strict=True):
        best = dict(zip(left_ids.tolist(), left_scores.tolist(), strict=True))
        for doc_id, score in zip(right_ids.tolist(), right_scores.tolist(), strict=True):
            if best.get(doc_id, -float("inf")) < score:
                best[doc_id] = score
        ordered = sorted(best.items(), key=lambda item: (item[1], item[0]), reverse=True)[:k]
        doc_ids.append([doc_id for doc_id, _ in ordered])
        scores.append([score for _, score in ordered])
    return Run.from_lists(left.query_ids, doc_ids, scores, left.tag)


def check_one_encoder(indexes: Sequence[StoredIndex]) -> None:
    """Refuse indexes whose scores do not compare.

    Raises:
        UserError: two were made by different encoders, or by one in different settings.
    """
    first, other = indexes[0], first_unlike(indexes)
    if other is None:
        return
    ours, theirs = first.manifest.encoder, other.manifest.encoder
    raise UserError(
        f"The indexes {first.folder} ({ours.name}, {ours.dim} dimensions, weights {ours.weight_hash[:12]}, "
        f"{ours.dtype}) and {other.folder} ({theirs.name}, {theirs.dim} dimensions, weights "
        f"{theirs.weight_hash[:12]}, {theirs.dtype}) were made by different encoders, whose scores do not "
        "compare: search one at a time."
    )
