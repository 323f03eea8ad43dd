"""Imports vectors that were encoded elsewhere: ids and vectors, read block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError

BLOCK_ROWS = 8192
"""Number of vectors read at once, if the file does not decide it."""


UNIT_TOLERANCE = 1e-3
"""Tolerance for the length of a unit vector. float16 vectors are within 3e-4."""


LEAST_COSINE = 0.999
"""The least cosine of two vectors of one text."""


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


class VectorsDigest:
    """A digest of vectors in their order. It stands for the weight hash of a model that is not there.

    Example:
        >>> one, other = VectorsDigest(), VectorsDigest()
        >>> one.update(np.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> other.update(np.array([[1.0, 0.0]]))
        >>> other.update(np.array([[0.0, 1.0]]))
        >>> one.hexdigest() == other.hexdigest()
        True
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"vectors")

    def update(self, vectors: NDArray[np.floating[Any]]) -> None:
        """Add vectors [n, dim]. They are read as float32."""
        self._digest.update(np.ascontiguousarray(vectors, dtype="<f4").data)

    def hexdigest(self) -> str:
        """The digest of all vectors so far."""
        return self._digest.hexdigest()


def checked_lengths(
    vectors: NDArray[np.float32], path: Path, before: int, unit_model: str | None = None
) -> NDArray[np.float64]:
    """The lengths [n] of vectors.

    Args:
        vectors: float32 [n, dim].
        path: where they come from.
        before: the number of vectors before them.
        unit_model: the name of a model with unit vectors, if it made these.

    Raises:
        UserError: one is not finite, or not of length 1 where it should be.
    """
    lengths: NDArray[np.float64] = np.linalg.norm(vectors.astype(np.float64), axis=1)
    # Not from the lengths, because the square of a large finite number can be infinite.
    unfit = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(unfit):
        raise UserError(
            f"Vector {before + int(unfit[0]) + 1:,} in {path} is not finite (NaN or infinity): encode its document "
            "again or leave it out."
        )
    off = np.flatnonzero(np.abs(lengths - 1) > UNIT_TOLERANCE)
    if unit_model is not None and len(off):
        raise UserError(
            f"Vector {before + int(off[0]) + 1:,} in {path} has length {lengths[off[0]]:.4f}, where {unit_model} gives "
            "vectors of length 1: scale them with `normalise`, or name the model that made them."
        )
    return lengths


def alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> Any:
    """Whether vectors [..., dim] may be of one text. Services give slightly other vectors when they are asked again."""
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(axis=-1) >= LEAST_COSINE * lengths


def said_lengths(shortest: float, longest: float) -> str:
    """The lengths of vectors in words."""
    if shortest >= 1 - UNIT_TOLERANCE and longest <= 1 + UNIT_TOLERANCE:
        return "all of length 1"
    return f"of lengths from {shortest:.4g} to {longest:.4g}"


def without_texts(ids: Iterable[str]) -> list[Document]:
    """Documents without texts."""
    return [Document(doc_id, "") for doc_id in ids]
