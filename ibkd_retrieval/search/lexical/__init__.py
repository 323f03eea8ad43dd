"""Lexical search: BM25 over the stored documents of an index. Each engine has one file and one table entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.lexical.bm25 import Bm25
from ibkd_retrieval.search.lexical.engine import Engine, Found, Opened, made_folder
from ibkd_retrieval.search.lexical.languages import check_language
from ibkd_retrieval.search.lexical.lucene import Lucene
from ibkd_retrieval.search.ranker import check_queries
from ibkd_retrieval.search.runs import Hit, Run, Scores, in_rank_order
from ibkd_retrieval.search.runs.doc_ids import Ids, as_ids

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.index import StoredIndex

__all__ = ["ENGINES", "LexicalSearcher", "check_engine", "open_lexical"]

_TABLE: dict[str, Callable[..., Engine]] = {"bm25": Bm25, "lucene": Lucene}

ENGINES = tuple(_TABLE)
"""Names of the engines, the default first."""

DEFAULT_K1, DEFAULT_B = 0.9, 0.4
"""The defaults of Anserini."""


def check_engine(engine: str, language: str = "english") -> None:
    """Check that an engine is installed, before any work is done.

    Raises:
        UserError: the engine or the language is unknown, or the engine does not read the language.
        MissingPackage: its library is not installed.
    """
    _engine(engine, DEFAULT_K1, DEFAULT_B, SILENT, language)


def open_lexical(
    index: StoredIndex,
    engine: str = "bm25",
    *,
    k1: float = DEFAULT_K1,
    b: float = DEFAULT_B,
    language: str = "english",
    allowed: NDArray[np.bool_] | None = None,
    progress: Progress = SILENT,
) -> LexicalSearcher:
    """Open the lexical index of an index. It is built at first use and kept in the index folder.

    BM25 is that of Robertson et al., Okapi at TREC-3.

    Args:
        index: an opened index.
        engine: one of `ENGINES`.
        k1: term frequency saturation of BM25, 0 or more.
        b: length normalisation of BM25, from 0 to 1.
        language: the language of the words, by name or ISO 639-1 code (`languages.LANGUAGES`).
        allowed: one bool per row [n]. Only rows with True are found.
        progress: receives progress reports of the indexing.

    Raises:
        UserError: there is no such engine or language, k1 or b is out of range, the index stores no text, or its folder
            cannot be written.
        MissingPackage: the engine's library is not installed.
    """
    if not (math.isfinite(k1) and k1 >= 0):
        raise UserError(f"BM25's k1 must be a number of at least 0, not {k1}: leave it out for 0.9.")
    if not 0 <= b <= 1:
        raise UserError(f"BM25's b must lie between 0 and 1, not {b}: leave it out for 0.4.")
    chosen = _engine(engine, k1, b, progress, language)
    findable = index.findable(allowed)
    return LexicalSearcher(index, engine, chosen.open(made_folder(index, chosen, progress)), findable)


def _engine(name: str, k1: float, b: float, progress: Progress, language: str) -> Engine:
    if name not in _TABLE:
        raise UserError(f"There is no lexical engine {name!r}: choose one of {', '.join(ENGINES)}.")
    language = check_language(language)
    if language == "english":
        return _TABLE[name](float(k1), float(b), progress)
    if name != "bm25":
        raise UserError(f"The engine {name} reads English: leave out `language`, or use the engine bm25.")
    return Bm25(float(k1), float(b), progress, language)


QUERY_BLOCK = 256
"""Queries searched at once. It bounds the memory of a batch."""


class LexicalSearcher:
    """Ranks the stored documents of an index by a lexical engine. Get one from `open_lexical`.

    Documents that share no word with the query are not found, so there may be fewer than k results, or none. Ties are
    in trec_eval's order, also at the cut: the first results of k are those of a smaller k.
    """

    def __init__(self, index: StoredIndex, name: str, engine: Opened, allowed: NDArray[np.bool_] | None) -> None:
        self.index = index
        self._name = name
        self._engine = engine
        self._allowed = allowed

    @property
    def name(self) -> str:
        """The name of the engine."""
        return self._name

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The best documents for one query, with their text."""
        check_queries([Query("query", text)], k)
        (found,) = self._engine.best([text], k, self._allowed)
        ((doc_ids, scores),) = self._ranked([found], k)
        row_of = dict(zip(self.index.doc_ids(found[0]), found[0].tolist(), strict=True))
        return [
            Hit(rank, float(score), doc_id, partial(self.index.document, row_of[doc_id]))
            for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), 1)
        ]

    def search_batch(
        self, queries: Sequence[Query], k: int = 1000, progress: Progress = SILENT, tag: str = "ibkd"
    ) -> Run:
        """The best documents for each query. A query without a known word has none."""
        check_queries(queries, k, empty=True)
        ranked: list[tuple[Ids, Scores]] = []
        with progress.task(f"Searching ({self.name})", len(queries), "queries") as task:
            for start in range(0, len(queries), QUERY_BLOCK):
                block = queries[start : start + QUERY_BLOCK]
                ranked += self._ranked(self._engine.best([query.text for query in block], k, self._allowed), k)
                task.advance(len(block))
        return Run.from_lists(
            [query.query_id for query in queries],
            [doc_ids.tolist() for doc_ids, _ in ranked],
            [scores for _, scores in ranked],
            tag,
        )

    def _ranked(self, found: Sequence[Found], k: int) -> list[tuple[Ids, Scores]]:
        # Results of different queries overlap. Each id is read from disk once.
        unique, place = np.unique(np.concatenate([rows for rows, _ in found]), return_inverse=True)
        known = as_ids(self.index.doc_ids(unique))
        ids = np.split(known[place], np.cumsum([len(rows) for rows, _ in found])[:-1])
        ordered = [in_rank_order(own, scores) for own, (_, scores) in zip(ids, found, strict=True)]
        return [(doc_ids[:k], scores[:k]) for doc_ids, scores in ordered]
