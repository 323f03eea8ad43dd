"""The protocol of an index family, and exact search, which every family falls back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families.training import HERE, Making
from ibkd_retrieval.indexing.format.manifest import OperatingPoint
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.progress import Progress

Option = int | float | str | bool | None

FEWEST_DOCUMENTS = 1000
"""Minimum number of documents for an approximate index. Below it, quantisers cannot be trained."""


class BuiltStructure(NamedTuple):
    """A filled faiss index.

    Attributes:
        index: the faiss index, whose ids are the rows of the vectors. None if the shards are searched directly, and
            no structure file is written.
        factory: the structure as a faiss factory string.
        search: the default search parameters.
        operating_points: the search parameters tried, with their recall and time.
    """

    index: Any
    factory: str
    search: SearchParams = SearchParams()
    operating_points: tuple[OperatingPoint, ...] = ()


class Family(Protocol):
    """A way to arrange vectors for search: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """The name that the user gives."""

    def suited_to(self, count: int, progress: Progress) -> Family:
        """This family, or the one to use instead for only `count` documents. A change is reported."""

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Memory of `count` vectors of dimension `dim` during search, in bytes per vector."""

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train on and add all `vectors`, by inner product, reading them shard by shard.

        On the device "cuda", k-means runs on a GPU if faiss has one. The returned index is in main memory. `making`
        says where a structure of inverted lists is trained and filled. Other structures are made here.
        """


def check_range(family: str, least: int, **options: int | None) -> None:
    """Refuse an option below `least`. None is allowed: the family then chooses.

    Raises:
        UserError: names the option.
    """
    for option, value in options.items():
        if value is not None and value < least:
            raise UserError(f"The option {option} of an index of type {family} must be at least {least}, not {value}.")


def check_recall(recall: float) -> None:
    """Refuse a target outside (0, 1].

    Raises:
        UserError: the target is outside the range.
    """
    if not 0 < recall <= 1:
        raise UserError(f"The recall to reach must be above 0 and at most 1, as in 0.95, not {recall}.")


STORED_ONCE_BYTES = 1 << 30
"""Size in bytes of the vectors above which a flat index has no faiss structure."""


@dataclass(frozen=True)
class Flat:
    """`IndexFlatIP`: the vectors as they are, 4 x dim bytes each, in memory while built and searched.

    Above `memory_bytes`, no structure is built. The shards are then searched block by block (`exact.scan`), or loaded
    whole if the machine that opens the index has the memory.

    Attributes:
        memory_bytes: maximum size in bytes of the vectors for a faiss structure. None is 1 GiB.
    """

    name: ClassVar[str] = "flat"

    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        check_range(self.name, 0, memory_bytes=self.memory_bytes)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """This family, which suits any number of documents."""
        return self

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Four bytes per dimension."""
        return 4 * dim

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Add all vectors, or build no structure if they are too large."""
        limit = STORED_ONCE_BYTES if self.memory_bytes is None else self.memory_bytes
        if 4 * vectors.dim * vectors.count > limit:
            return BuiltStructure(None, "Flat")
        index = load_faiss().IndexFlatIP(vectors.dim)
        with progress.task("Adding vectors", vectors.count, "vectors") as task:
            for shard in vectors:
                index.add(np.ascontiguousarray(shard))
                task.advance(len(shard))
        return BuiltStructure(index, "Flat")
