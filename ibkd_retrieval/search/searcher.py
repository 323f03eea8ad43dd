"""Text in, ranked documents out: an index together with the encoder of its queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranking import Hit, Run, first_repeated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ibkd_retrieval.indexing.store import StoredIndex

QUERY_BLOCK = 256
"""Queries encoded and searched at once; bounds the memory of a batch."""


class Searcher:
    """Answers queries from one index."""

    def __init__(
        self,
        index: StoredIndex,
        encoder: TextEncoder,
        *,
        nprobe: int | None = None,
        refine: int | None = None,
        other_encoder: bool = False,
    ) -> None:
        """Join an index and the encoder of its queries.

        Args:
            index: an opened index.
            encoder: encodes the queries.
            nprobe: inverted lists to visit, the index's own default where None.
            refine: candidates per result scored with exact vectors, the index's own default where None.
            other_encoder: accept an encoder that did not build the index, as asymmetric search needs: a student
                that was trained into the teacher's space searches the teacher's index.

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
        self.index = index
        self.encoder = encoder
        self.nprobe = nprobe
        self.refine = refine

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The k best documents for one query, with their text, best first; fewer where the index finds fewer.

        Raises:
            UserError: the query is empty or k is below 1.
        """
        query = Query("query", text)
        _check([query], k)
        scores, rows = self._find([query], k)
        found = rows[0][rows[0] >= 0]
        ids = self.index.doc_ids(found)
        row_of = dict(zip(ids, found.tolist(), strict=True))
        ((_, doc_ids, values),) = Run.from_lists([query.query_id], [ids], [scores[0][rows[0] >= 0]])
        return [
            Hit(rank, float(value), doc_id, self.index.document(row_of[doc_id]))
            for rank, (doc_id, value) in enumerate(zip(doc_ids, values, strict=True), 1)
        ]

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The k best documents for each query, as a run whose queries stand in the order given.

        Raises:
            UserError: a query is empty, a query id appears twice, or k is below 1.
        """
        _check(queries, k)
        doc_ids: list[list[str]] = []
        values: list[NDArray[np.float32]] = []
        with progress.task("Searching", len(queries), "queries") as task:
            for start in range(0, len(queries), QUERY_BLOCK):
                block = queries[start : start + QUERY_BLOCK]
                scores, rows = self._find(block, k)
                # Answers to different queries overlap, and an id is read from disk: read each once.
                unique, place = np.unique(rows, return_inverse=True)
                known = np.empty(len(unique), dtype=object)
                known[unique >= 0] = self.index.doc_ids(unique[unique >= 0])
                ids = known[place.reshape(rows.shape)]
                for query in range(len(block)):
                    found = rows[query] >= 0
                    doc_ids.append(ids[query][found].tolist())
                    values.append(scores[query][found])
                task.advance(len(block))
        return Run.from_lists([query.query_id for query in queries], doc_ids, values, tag)

    def _find(self, queries: Sequence[Query], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        vectors = self.encoder.encode([query.text for query in queries], kind="query")
        return self.index.search(vectors, k, nprobe=self.nprobe, refine=self.refine)


def _check(queries: Sequence[Query], k: int) -> None:
    if k < 1:
        raise UserError(f"The number of results must be at least 1, not {k}: ask for 1 or more.")
    ids = [query.query_id for query in queries]
    if len(set(ids)) != len(ids):
        raise UserError(f"Query {first_repeated(ids)} appears twice: give each query its own id.")
    for query in queries:
        if not query.text.strip():
            name = f"Query {query.query_id}" if len(queries) > 1 else "The query"
            raise UserError(f"{name} is empty: type at least one word.")
