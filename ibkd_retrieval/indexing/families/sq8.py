"""The sq8 family: inverted lists of vectors with eight bits per dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.indexing.families.family import BuiltStructure, Family
from ibkd_retrieval.indexing.families.inverted import build_inverted, bytes_of_lists, check_inverted, flat_if_few
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL
from ibkd_retrieval.indexing.vectors.source import VectorSource
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class Sq8:
    """`IVF{lists},SQ8`: a quarter of float32, each dimension rounded to one of 256 levels between its extremes.

    Attributes:
        lists: number of inverted lists (`inverted.InvertedOptions` has the details of all options).
        nprobe: inverted lists visited by default.
        refine: candidates rescored exactly per result by default.
        recall: target recall@10 of the trial.
        seed: random seed for the samples.
    """

    name: ClassVar[str] = "sq8"

    lists: int | None = None
    nprobe: int | None = None
    refine: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        check_inverted(self)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents."""
        return flat_if_few(self, count, progress)

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """One a dimension, the id and a share of the centroids."""
        return dim + bytes_of_lists(self.lists, count, dim)

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
        """Train the lists and the levels, add, and choose nprobe and refine by trial."""
        # The codes are so precise that few candidates, or none, need exact rescoring.
        return build_inverted(self, "SQ8", vectors, progress, device, refinements=(0, 2))
