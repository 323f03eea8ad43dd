"""Reranking: a cross-encoder reads query and text together and reorders the best results of another ranker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.encoders.cross_encoder import PairScorer, load_pair_scorer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranker import Ranker, check_queries
from ibkd_retrieval.search.runs import Hit, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ibkd_retrieval.indexing.index import StoredIndex

QUERY_BLOCK = 64
"""Queries whose texts are held and sorted by length together."""


class Reranker:
    """Scores the top `depth` results of a ranker with a cross-encoder and keeps the rest in order below them.

    The method is that of Nogueira and Cho, *Passage Re-ranking with BERT*, arXiv 1901.04085. Scores are the model's
    logits. The results below them get the lowest logit minus 1, 2, ..., so that scores stay decreasing.
    """

    def __init__(self, base: Ranker, indexes: Sequence[StoredIndex], scorer: PairScorer, depth: int = 100) -> None:
        """Rerank the results of `base` with `scorer`.

        Args:
            base: the ranker that finds the candidates.
            indexes: the indexes that `base` searches. They hold the texts.
            scorer: the cross-encoder.
            depth: candidates per query.

        Raises:
            UserError: depth is below 1.
        """
        check_depth(depth)
        self._base, self._indexes, self._scorer, self._depth = base, tuple(indexes), scorer, depth

    @classmethod
    def load(
        cls,
        base: Ranker,
        indexes: Sequence[StoredIndex],
        model: str,
        *,
        depth: int = 100,
        max_length: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Reranker:
        """Load the cross-encoder `model` (folder or hub name); the arguments are those of `load_pair_scorer`."""
        check_depth(depth)
        scorer = load_pair_scorer(model, max_length=max_length, device=device, dtype=dtype)
        return cls(base, indexes, scorer, depth)

    @property
    def name(self) -> str:
        """The name in tables and messages."""
        return f"{self._base.name} + {self._scorer.name}"

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The best documents for one query, with their text."""
        hits = self._base.search(text, max(k, self._depth))
        head, tail = hits[: self._depth], hits[self._depth :]
        if not head:
            return []
        scores = self._scorer.score([(text, _content(hit.document)) for hit in head])
        order = sorted(range(len(head)), key=lambda place: (scores[place], head[place].doc_id), reverse=True)
        ranked = [(head[place], float(scores[place])) for place in order]
        ranked += [(hit, ranked[-1][1] - place) for place, hit in enumerate(tail, 1)]
        return [replace(hit, rank=rank, score=score) for rank, (hit, score) in enumerate(ranked[:k], 1)]

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents for each query."""
        check_queries(queries, k)
        base = self._base.search_batch(queries, max(k, self._depth), progress, tag)
        texts = StoredTexts(self._indexes, base.first(self._depth).doc_ids.tolist())
        doc_ids: list[list[str]] = []
        values: list[NDArray[np.float64]] = []
        starts, counts = base.offsets[:-1], np.diff(base.offsets)
        heads = np.minimum(counts, self._depth)
        with progress.task("Re-ranking", int(heads.sum()), "pairs") as task:
            for start in range(0, len(queries), QUERY_BLOCK):
                block = range(start, min(start + QUERY_BLOCK, len(queries)))
                pairs = [
                    (queries[row].text, texts.content(doc_id))
                    for row in block
                    for doc_id in base.doc_ids[starts[row] : starts[row] + heads[row]].tolist()
                ]
                scores = np.split(self._scorer.score(pairs, task), np.cumsum(heads[block.start : block.stop])[:-1])
                for row, head in zip(block, scores, strict=True):
                    below = counts[row] - heads[row]
                    tail = (head.min() if len(head) else 0.0) - np.arange(1, below + 1)
                    ids = base.doc_ids[starts[row] : starts[row] + counts[row]].tolist()
                    doc_ids.append(ids)
                    values.append(np.concatenate([head.astype(np.float64), tail]))
        return Run.from_lists(base.query_ids, doc_ids, values, tag).first(k)


def check_depth(depth: int) -> None:
    """Check the reranking depth.

    Raises:
        UserError: the depth is below 1.
    """
    if depth < 1:
        raise UserError(f"The number of results to re-rank must be at least 1, not {depth}.")


class StoredTexts:
    """The texts of documents in indexes, by id. Their rows are found in one pass over all ids.

    A document in several indexes is read from the first. Deleted documents are not read.
    """

    def __init__(self, indexes: Sequence[StoredIndex], doc_ids: Iterable[str]) -> None:
        wanted = set(doc_ids)
        self._place: dict[str, tuple[StoredIndex, int]] = {}
        for index in indexes:
            for doc_id, row in index.rows_of(wanted).items():
                self._place.setdefault(doc_id, (index, row))

    def content(self, doc_id: str) -> str:
        """The title and the text of a document."""
        index, row = self._place[doc_id]
        return index.document(row).content


def _content(document: Document | None) -> str:
    return document.content if document is not None else ""
