"""Imports vectors that were encoded elsewhere: ids and vectors, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError

BLOCK_ROWS = 8192
"""Number of vectors read at once, if the file does not decide it."""


class VectorBlock(NamedTuple):
    """A part of the vectors.

    Attributes:
        documents: n documents, whose texts may be empty.
        vectors: their vectors, float32 [n, dim].
    """

    documents: list[Document]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class ForeignVectors:
    """Vectors that are read in blocks, as often as needed.

    Attributes:
        path: the file or folder. For vectors in memory, a name made from their content.
        count: number of vectors. None if it is unknown before reading.
        in_memory: whether the vectors come from memory and not from a file.
    """

    path: Path
    count: int | None
    _open: Callable[[], Iterable[VectorBlock]]
    in_memory: bool = False

    @property
    def name(self) -> str:
        """The name of the vectors in a manifest."""
        return str(self.path if self.in_memory else self.path.resolve())

    def blocks(self) -> Iterator[VectorBlock]:
        """The vectors in the order of the file, in blocks of any size."""
        return iter(self._open())

    def blocks_of(self, size: int) -> Iterator[VectorBlock]:
        """The vectors in blocks of `size`. The last block may be smaller.

        Raises:
            UserError: the vectors have different dimensions.
        """
        documents: list[Document] = []
        vectors: list[NDArray[np.float32]] = []
        for block in self.blocks():
            if vectors and block.vectors.shape[1] != vectors[0].shape[1]:
                raise UserError(
                    f"{self.path} holds vectors of {vectors[0].shape[1]} and of {block.vectors.shape[1]} dimensions: "
                    "give vectors of one model."
                )
            documents += block.documents
            vectors.append(block.vectors)
            if len(documents) >= size:
                together = np.concatenate(vectors)
                whole = len(documents) - len(documents) % size
                for start in range(0, whole, size):
                    yield VectorBlock(documents[start : start + size], together[start : start + size])
                documents, vectors = documents[whole:], [together[whole:]]
        if documents:
            yield VectorBlock(documents, np.concatenate(vectors))


def without_texts(ids: Iterable[str]) -> list[Document]:
    """Documents without texts."""
    return [Document(doc_id, "") for doc_id in ids]
