"""Exact search: every vector is compared with every query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family
from ibkd_retrieval.indexing.shards import ShardVectors
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class Flat:
    """`IndexFlatIP`: the vectors as they are, 4 x dim bytes each, in memory while built and searched."""

    name: ClassVar[str] = "flat"

    def suited_to(self, count: int, progress: Progress) -> Family:
        """Any number of documents suits."""
        return self

    def build(self, vectors: ShardVectors, progress: Progress) -> BuiltStructure:
        """Add all vectors."""
        index = load_faiss().IndexFlatIP(vectors.dim)
        with progress.task("Adding vectors", vectors.count, "vectors") as task:
            for shard in vectors:
                index.add(np.ascontiguousarray(shard))
                task.advance(len(shard))
        return BuiltStructure(index, "Flat")
