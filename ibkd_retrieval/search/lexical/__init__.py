"""Lexical search: BM25 over the stored documents of an index. Each engine has one file and one table entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.lexical.bm25 import Bm25
from ibkd_retrieval.search.lexical.engine import Engine
from ibkd_retrieval.search.lexical.folder import made_folder
from ibkd_retrieval.search.lexical.lucene import Lucene
from ibkd_retrieval.search.lexical.searcher import LexicalSearcher

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.indexing.index import StoredIndex

__all__ = ["ENGINES", "LexicalSearcher", "check_engine", "open_lexical"]

_TABLE: dict[str, Callable[[float, float, Progress], Engine]] = {"bm25": Bm25, "lucene": Lucene}

ENGINES = tuple(_TABLE)
"""Names of the engines, the default first."""

DEFAULT_K1, DEFAULT_B = 0.9, 0.4
"""As Anserini has them by default."""


def check_engine(engine: str) -> None:
    """Check that an engine is installed, before any work is done.

    Raises:
        UserError: the engine is unknown.
        MissingPackage: its library is not installed.
    """
    _engine(engine, DEFAULT_K1, DEFAULT_B, SILENT)


def open_lexical(
    index: StoredIndex,
    engine: str = "bm25",
    *,
    k1: float = DEFAULT_K1,
    b: float = DEFAULT_B,
    allowed: NDArray[np.bool_] | None = None,
    progress: Progress = SILENT,
) -> LexicalSearcher:
    """Open the lexical index of an index. It is built at first use and kept in the index folder.

    Robertson et al., Okapi at TREC-3; k1 and b as Anserini has them by default.

    Args:
        index: an opened index.
        engine: one of `ENGINES`.
        k1: term frequency saturation of BM25, 0 or more.
        b: length normalisation of BM25, from 0 to 1.
        allowed: one bool per row [n]. Only rows with True are found.
        progress: receives progress reports of the indexing.

    Raises:
        UserError: there is no such engine, k1 or b is out of range, the index stores no text, or its folder
            cannot be written.
        MissingPackage: the engine's library is not installed.
    """
    if not (math.isfinite(k1) and k1 >= 0):
        raise UserError(f"BM25's k1 must be a number of at least 0, not {k1}: leave it out for 0.9.")
    if not 0 <= b <= 1:
        raise UserError(f"BM25's b must lie between 0 and 1, not {b}: leave it out for 0.4.")
    chosen = _engine(engine, k1, b, progress)
    findable = index.findable(allowed)
    return LexicalSearcher(index, engine, chosen.open(made_folder(index, chosen, progress)), findable)


def _engine(name: str, k1: float, b: float, progress: Progress) -> Engine:
    if name not in _TABLE:
        raise UserError(f"There is no lexical engine {name!r}: choose one of {', '.join(ENGINES)}.")
    return _TABLE[name](float(k1), float(b), progress)
