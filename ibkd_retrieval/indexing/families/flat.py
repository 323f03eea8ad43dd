"""Exact search: every vector is compared with every query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family, check_range
from ibkd_retrieval.indexing.vectors.source import VectorSource
from ibkd_retrieval.progress import Progress

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
        """Any number of documents suits."""
        return self

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Four a dimension."""
        return 4 * dim

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
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
