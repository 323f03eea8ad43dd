"""Dense search: one index with its query encoder, or several indexes of one encoder as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.contents import first_unlike
from ibkd_retrieval.indexing.index import StoredIndex
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.query_vectors import QueryVectors
from ibkd_retrieval.search.ranker import check_queries
from ibkd_retrieval.search.runs import Hit, Run
from ibkd_retrieval.search.runs.doc_ids import Ids, as_ids, taken

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ibkd_retrieval.indexing.index import StoredIndex


QUERY_BLOCK = 1024
"""Queries searched at once in this process."""


class VectorSearcher:
    """Answers query vectors from one index."""

    def __init__(
        self, index: StoredIndex, search_params: SearchParams | None = None, allowed: NDArray[np.bool_] | None = None
    ) -> None:
        """Search an opened index.

        Args:
            index: an opened index.
            search_params: search parameters. None is the index's own defaults.
            allowed: bool [n]: only rows that are True are found. None allows all.
        """
        self.index = index
        self.search_params = search_params or SearchParams()
        self.allowed = allowed

    def hits(self, vector: NDArray[np.float32], k: int) -> list[Hit]:
        """The k best documents for one query vector [1, dim]."""
        return self.hits_of_each(vector, k)[0]

    def hits_of_each(self, vectors: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """The k best documents for each query vector [q, dim], with their text, in one call of the index."""
        # For a larger k the index would return empty places behind the documents.
        scores, rows = self._find(vectors, min(k, max(1, len(self.index))))
        return [self._hits_of_one(*found) for found in zip(scores.tolist(), rows.tolist(), strict=True)]

    def _hits_of_one(self, scores: list[float], rows: list[int]) -> list[Hit]:
        found = [(score, row) for score, row in zip(scores, rows, strict=True) if row >= 0]
        ids = self.index.doc_ids([row for _, row in found])
        ordered = sorted(((score, doc_id, row) for (score, row), doc_id in zip(found, ids, strict=True)), reverse=True)
        return [
            Hit(rank, score, doc_id, partial(self.index.document, row))
            for rank, (score, doc_id, row) in enumerate(ordered, 1)
        ]

    def run(
        self, query_ids: Sequence[str], vectors: NDArray[np.float32], k: int, progress: Progress = SILENT, tag: str = ""
    ) -> Run:
        """The k best documents for the vector of each query [q, dim].

        This takes 36 bytes of memory per result, and the bytes of ids that are longer than 15.
        """
        shape = (len(vectors), min(k, len(self.index)))
        scores, rows = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        with self.index.connected(), progress.task("Searching", len(vectors), "queries") as task:
            height = self.index.queries_at_once or QUERY_BLOCK
            for start in range(0, len(vectors), height):
                block = slice(start, start + height)
                scores[block], rows[block] = self._find(vectors[block], shape[1])
                task.advance(len(vectors[block]))
        return Run.from_matrix(query_ids, self._ids(rows), scores, tag)

    def _find(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self.index.search(vectors, k, self.search_params, allowed=self.allowed)

    def _ids(self, rows: NDArray[np.int64]) -> Ids:
        """The document id of each row, read once. It is empty for padding."""
        documents = self.index.manifest.rows
        if documents <= rows.size:
            # Faster than sorting, and no larger than the results. Padding is -1: the place behind the last document.
            wanted = np.zeros(documents + 1, dtype=np.bool_)
            wanted[rows] = True
            unique = np.flatnonzero(wanted[:-1])
            place = np.zeros(documents + 1, dtype=np.int32)
            place[unique] = np.arange(1, len(unique) + 1)
            return taken(as_ids(["", *self.index.doc_ids(unique)]), place[rows])
        unique, places = np.unique(rows, return_inverse=True)
        padding = [""] * int(np.count_nonzero(unique < 0))
        return taken(as_ids([*padding, *self.index.doc_ids(unique[unique >= 0])]), places.reshape(rows.shape))


class Searcher(VectorSearcher):
    """Answers queries from one index."""

    def __init__(
        self,
        index: StoredIndex,
        encoder: TextEncoder,
        *,
        search_params: SearchParams | None = None,
        other_encoder: bool = False,
        allowed: NDArray[np.bool_] | None = None,
    ) -> None:
        """Join an index and the encoder of its queries.

        Args:
            index: an opened index.
            encoder: encodes the queries.
            search_params: search parameters. None is the index's own defaults.
            other_encoder: whether to accept an encoder that did not build the index. A student in the teacher's vector
                space searches the teacher's index.
            allowed: bool [n]: only rows that are True are found. None allows all.

        Raises:
            UserError: the encoder is not the one the index was built with, or its vectors have another length.
        """
        made_by, dim = index.manifest.encoder, index.manifest.dim
        if encoder.dim != dim:
            raise UserError(
                f"The index holds vectors of {dim} dimensions made by {made_by.name}, and the query model "
                f"{encoder.name} makes {encoder.dim}: search with {made_by.name}, or index the corpus with "
                f"{encoder.name}."
            )
        if encoder.weight_hash != made_by.weight_hash and not other_encoder:
            raise UserError(
                f"The index was built with {made_by.name} (weights {made_by.weight_hash[:12]}) and the query model is "
                f"{encoder.name} (weights {encoder.weight_hash[:12]}), so their vectors do not compare: search with "
                f"the model that built the index, or index the corpus again with {encoder.name}."
            )
        super().__init__(index, search_params, allowed)
        self.encoder = encoder

    @property
    def name(self) -> str:
        """The name in tables and messages."""
        return "dense"

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The best documents for one query, with their text."""
        query = Query("query", text)
        check_queries([query], k)
        return self.hits(self.encode([query]), k)

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents for each query."""
        check_queries(queries, k)
        return self.run([query.query_id for query in queries], self.encode(queries, progress), k, progress, tag)

    def encode(self, queries: Sequence[Query], progress: Progress = SILENT) -> NDArray[np.float32]:
        """The vectors [q, dim] of queries."""
        if not queries:
            return np.empty((0, self.index.manifest.dim), dtype=np.float32)
        with progress.task("Encoding", len(queries), "queries") as task:
            if isinstance(self.encoder, QueryVectors):
                return self.encoder.of_queries(queries)
            return self.encoder.encode([query.text for query in queries], kind="query", progress=task)


class MergedSearcher:
    """The best documents of all indexes by score. A document in several indexes keeps its best score."""

    def __init__(self, searchers: Sequence[Searcher]) -> None:
        """Join one searcher or several.

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
