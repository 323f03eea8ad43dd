"""Results without the query itself, for collections whose queries are documents too (ArguAna, Quora)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.doc_ids import as_ids
from ibkd_retrieval.search.ranker import Ranker, check_queries
from ibkd_retrieval.search.ranking import Hit, Run


class ExcludingSelf:
    """Another ranker's results without the document that has the query's id; k are left where k + 1 were found."""

    def __init__(self, base: Ranker) -> None:
        self._base = base

    @property
    def name(self) -> str:
        """That of the other ranker."""
        return self._base.name

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """What the other ranker finds: a typed question has no id."""
        return self._base.search(text, k)

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The k best documents other than the query itself."""
        check_queries(queries, k)
        return without_own(self._base.search_batch(queries, k + 1, progress, tag), k)


def without_own(run: Run, k: int) -> Run:
    """Drop from each query the document that has its id, then all but the first k."""
    counts = np.diff(run.offsets)
    others = run.doc_ids != np.repeat(as_ids(run.query_ids), counts)
    passed = np.concatenate([[0], np.cumsum(others)])
    place = passed[1:] - np.repeat(passed[run.offsets[:-1]], counts)
    kept = others & (place <= k)
    offsets = np.concatenate([[0], np.cumsum(kept)])[run.offsets]
    return Run(run.query_ids, offsets.astype(np.int64), run.doc_ids[kept], run.scores[kept], run.tag)
