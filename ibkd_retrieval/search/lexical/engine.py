"""The interface of lexical engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.progress import Task

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows of documents and their scores, in no particular order; all scores are above 0."""


class Opened(Protocol):
    """A lexical index, opened for search."""

    def best(self, texts: Sequence[str], k: int, allowed: NDArray[np.bool_] | None) -> list[Found]:
        """The k best documents for each query; more where some tie with the last of them.

        Args:
            texts: queries; one without a known word finds nothing.
            k: number of results, at least 1.
            allowed: one bool a row; only rows that hold True are found.
        """


class Engine(Protocol):
    """A way to index words, with its settings."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def version(self) -> str:
        """Of the library that does the work."""

    @property
    def settings(self) -> Mapping[str, str]:
        """All that decides what is in its files."""

    def build(self, folder: Path, documents: Iterable[Document], task: Task) -> None:
        """Index `documents`, whose places in the stream are their rows, into files in the empty `folder`."""

    def open(self, folder: Path) -> Opened:
        """Open what `build` has made."""
