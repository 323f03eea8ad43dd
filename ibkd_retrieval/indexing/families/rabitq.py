"""The rabitq family: inverted lists of vectors with one bit per dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families.family import BuiltStructure, Family
from ibkd_retrieval.indexing.families.inverted import (
    build_inverted,
    bytes_of_blocks,
    bytes_of_lists,
    check_inverted,
    flat_if_few,
)
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL
from ibkd_retrieval.indexing.vectors.source import VectorSource
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class RaBitQ:
    """`RR{dim},IVF{lists},RaBitQfs`: the sign of each dimension after a random rotation, and two corrections.

    Gao, Long: RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
    Neighbor Search. SIGMOD 2024. https://arxiv.org/abs/2405.12497. Only the lists are trained.

    Attributes:
        lists: number of inverted lists (`inverted.InvertedOptions` has the details of all options).
        bits: bits per dimension, 1 to 9.
        nprobe: inverted lists visited by default.
        refine: candidates rescored exactly per result by default.
        recall: target recall@10 of the trial.
        seed: random seed for the samples.
    """

    name: ClassVar[str] = "rabitq"

    lists: int | None = None
    bits: int = 1
    nprobe: int | None = None
    refine: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        if not 1 <= self.bits <= 9:
            raise UserError(f"A rabitq index has codes of 1 to 9 bits a dimension, not {self.bits}.")
        check_inverted(self)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents."""
        return flat_if_few(self, count, progress)

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """The bits, the corrections, the id, and a share of the centroids and of the rotation."""
        corrections = 8 if self.bits == 1 else 16
        codes = bytes_of_blocks(self.bits * dim / 8, self.lists, count) + corrections
        return codes + bytes_of_lists(self.lists, count, dim) + 4 * dim * dim / max(1, count)

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
        """Train the lists, add, and choose nprobe and refine by trial."""
        codes = "RaBitQfs" if self.bits == 1 else f"RaBitQfs{self.bits}"
        return build_inverted(self, codes, vectors, progress, device, before=f"RR{vectors.dim}")
