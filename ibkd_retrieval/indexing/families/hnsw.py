"""The HNSW family: a hierarchical navigable small-world graph over whole vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family, check_range, check_recall
from ibkd_retrieval.indexing.families.inverted import flat_if_few
from ibkd_retrieval.indexing.families.parts import add_whole
from ibkd_retrieval.indexing.families.training import HERE, Making, parsed
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL, trial_of, tuned
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class Hnsw:
    """`HNSW{links},Flat`: the fastest family for single queries. It is the largest, because it holds vectors and links.

    Malkov, Yashunin: Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small World
    Graphs. TPAMI 2020. https://arxiv.org/abs/1603.09320

    Attributes:
        links: links per node on the upper levels (M). The lowest level has twice as many.
        ef_construction: size of the candidate list while a node is linked.
        ef_search: size of the candidate list of a search by default. None chooses by trial.
        recall: target recall@10 of the trial.
        seed: random seed for the documents used as queries.
    """

    name: ClassVar[str] = "hnsw"

    links: int = 32
    ef_construction: int = 80
    ef_search: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        check_range(self.name, 2, links=self.links)
        check_range(self.name, 1, ef_construction=self.ef_construction, ef_search=self.ef_search)
        check_range(self.name, 0, seed=self.seed)
        check_recall(self.recall)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents."""
        return flat_if_few(self, count, progress)

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Four bytes per dimension, and four for each of 2 x links on the lowest level and some above."""
        return 4 * dim + 8 * self.links + 4 * self.links / (self.links - 1) + 20

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Link all vectors, then choose ef_search by trial. The graph is always built on the CPU."""
        factory = f"HNSW{self.links},Flat"
        index = parsed(factory, vectors.dim)
        index.hnsw.efConstruction = self.ef_construction
        index = add_whole(index, vectors, progress)  # Graphs of parts would be others than a graph of the whole.
        fixed = SearchParams(refine=0, ef_search=self.ef_search)
        return tuned(index, factory, trial_of(vectors, self.seed), fixed, self.recall, progress)
