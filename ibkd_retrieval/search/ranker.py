"""What every way of ranking documents can do, and the questions none of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranking import Hit, Run, first_repeated


class Ranker(Protocol):
    """Ranks the documents of an index for queries: by vectors, by words, by both, or what another ranker found."""

    @property
    def name(self) -> str:
        """What it is called in tables and messages."""

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The k best documents for one query, with their text, best first; fewer where fewer are found.

        Raises:
            UserError: the query is empty or k is below 1.
        """

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The k best documents for each query, as a run whose queries stand in the order given.

        Raises:
            UserError: a query is empty, a query id appears twice, or k is below 1.
        """


def check_queries(queries: Sequence[Query], k: int, *, empty: bool = False) -> None:
    """Refuse what a ranker cannot answer.

    Args:
        queries: what is asked.
        k: how many documents are wanted of each.
        empty: whether a query may be empty, as for words, of which it then has none that is known.

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
