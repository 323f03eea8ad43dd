"""Inverted lists: their number and search parameters, and the family that keeps whole vectors in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.families.family import (
    FEWEST_DOCUMENTS,
    BuiltStructure,
    Family,
    Flat,
    check_range,
    check_recall,
)
from ibkd_retrieval.indexing.families.training import HERE, Making, TrainingPlan, filled
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL, trial_of, tuned
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.progress import Progress

POINTS_PER_LIST = 39
"""Minimum number of training vectors per centroid, below which faiss warns."""

GRAPH_OVER_LISTS = 1_000_000
"""Number of documents from which an HNSW graph over the centroids finds the nearest lists."""


@dataclass(frozen=True)
class Inverted:
    """The options of every family of inverted lists, and how it is built.

    Attributes:
        lists: number of inverted lists. None is 4 sqrt(n), with at least 39 documents per list.
        nprobe: inverted lists visited by default. None chooses by trial.
        recall: target recall@10 of the trial, against exact search.
        seed: random seed for the training sample and for the documents used as queries.
    """

    name: ClassVar[str]

    lists: int | None = None
    nprobe: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        check_range(self.name, 1, lists=self.lists, nprobe=self.nprobe)
        check_range(self.name, 0, refine=getattr(self, "refine", None), seed=self.seed)
        check_recall(self.recall)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents."""
        return flat_if_few(self, count, progress)  # type: ignore[arg-type]

    def number_of_lists(self, count: int) -> int:
        """The number asked for, or 4 sqrt(count), at most one per 39 documents."""
        return min(self.lists or int(4 * math.sqrt(count)), max(1, count // POINTS_PER_LIST))

    def bytes_of_blocks(self, code_bytes: float, count: int) -> float:
        """Bytes per vector of fast-scan codes. A list is filled up to blocks of 32, by half a block on average."""
        return code_bytes * (1 + 16 * self.number_of_lists(count) / max(1, count))

    def bytes_of_lists(self, count: int, dim: int) -> float:
        """Bytes per vector of ids and centroids, beside the codes."""
        return 8 + 4 * dim * self.number_of_lists(count) / max(1, count)

    def built(
        self,
        codes: str,
        vectors: VectorSource,
        progress: Progress,
        device: str,
        making: Making,
        *,
        refine: int | None = None,
        refinements: Sequence[int] | None = None,
        training: int = 0,
        before: str = "",
    ) -> BuiltStructure:
        """Train on a random sample of all shards, add, then choose nprobe and refine by trial.

        Args:
            codes: what the lists hold, as the last part of a faiss factory string.
            vectors: the vectors to index.
            progress: receives the progress.
            device: "cuda" to train on a GPU.
            making: where it is trained and filled.
            refine: candidates rescored exactly per result. None chooses by trial.
            refinements: values of `refine` to try. None is the usual ones.
            training: number of training vectors that the codes need. The centroids take 64 per list.
            before: a transformation before the lists, as the first part of a factory string.
        """
        lists = self.number_of_lists(vectors.count)
        if self.lists is not None and lists < self.lists:
            progress.say(
                f"{self.lists:,} inverted lists are too many for {vectors.count:,} documents: making {lists:,}."
            )
        graph = "_HNSW32" if vectors.count >= GRAPH_OVER_LISTS else ""
        factory = ",".join(part for part in (before, f"IVF{lists}{graph}", codes) if part)
        plan = TrainingPlan(factory, vectors.dim, max(64 * lists, training), self.seed, device)
        index = filled(plan, vectors, progress, making)
        fixed = SearchParams(self.nprobe, refine)
        return tuned(index, factory, trial_of(vectors, self.seed), fixed, self.recall, progress, refinements)


@dataclass(frozen=True)
class IvfFlat(Inverted):
    """`IVF{lists},Flat`: as large as a flat index, and faster by the share of lists that are skipped."""

    name: ClassVar[str] = "ivf-flat"

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Four bytes per dimension, the id and a share of the centroids."""
        return 4 * dim + self.bytes_of_lists(count, dim)

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train the lists, add, and choose nprobe by trial."""
        return self.built("Flat", vectors, progress, device, making, refine=0)


def flat_if_few(family: Family, count: int, progress: Progress) -> Family:
    """A flat index below 1,000 documents, where quantisers cannot be trained and exact search costs nothing."""
    if count >= FEWEST_DOCUMENTS:
        return family
    progress.say(
        f"{count:,} documents are too few to train an {family.name} index (it takes {FEWEST_DOCUMENTS:,}): "
        "building a flat one, which is exact and keeps whole vectors in memory."
    )
    return Flat()
