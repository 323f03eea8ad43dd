"""The families of inverted lists that hold compressed vectors: sq8, ivf-pq and rabitq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families.family import BuiltStructure, check_range
from ibkd_retrieval.indexing.families.inverted import POINTS_PER_LIST, Inverted
from ibkd_retrieval.indexing.families.training import HERE, Making
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class Sq8(Inverted):
    """`IVF{lists},SQ8`: a quarter of float32, each dimension rounded to one of 256 levels between its extremes.

    Attributes:
        refine: candidates rescored exactly per result by default.
    """

    name: ClassVar[str] = "sq8"

    refine: int | None = None

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """One byte per dimension, the id and a share of the centroids."""
        return dim + self.bytes_of_lists(count, dim)

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train the lists and the levels, add, and choose nprobe and refine by trial."""
        # The codes are precise, so few candidates need exact rescoring, or none.
        return self.built("SQ8", vectors, progress, device, making, refine=self.refine, refinements=(0, 2))


@dataclass(frozen=True)
class IvfPq(Inverted):
    """`IVF{lists},PQ{dim/4}x4fs`: four dimensions in four bits, so 1/32 of float32, and eight bytes for the id.

    Chosen by measurement, at equal code size, after refinement (MiniLM, 384 dimensions, recall@10 of real queries
    against exact search): on 41,200 documents of seven collections `PQ96x4fs` reached 0.966 at nprobe 128 and refine
    8 after 2 s of training, and `PQ48x8np` 0.963 after 8 s and at four times the search time. Refinement makes up for
    the coarse codes: twice the bytes (`PQ192x4fs`, `PQ96x8np`) gave 0.975.

    Attributes:
        subquantisers: codes per vector, a divisor of the dimension. None is one per four dimensions.
        bits: bits per code, 4 (fast scan) or 8.
        refine: candidates rescored exactly per result by default.
    """

    name: ClassVar[str] = "ivf-pq"

    subquantisers: int | None = None
    bits: int = 4
    refine: int | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        if self.bits not in (4, 8):
            raise UserError(f"An ivf-pq index has codes of 4 or 8 bits, not {self.bits}.")
        check_range(self.name, 1, subquantisers=self.subquantisers)
        super().__post_init__()

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """The codes, the id and a share of the centroids."""
        codes = self._parts(dim) * self.bits / 8
        if self.bits == 4:
            codes = self.bytes_of_blocks(codes, count)
        return codes + self.bytes_of_lists(count, dim)

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train the lists and the codes, add, and choose nprobe and refine by trial.

        Raises:
            UserError: the number of sub-quantisers does not divide the dimension.
        """
        codes = f"PQ{self._parts(vectors.dim)}x{'4fs' if self.bits == 4 else '8np'}"
        # The codes need 39 vectors for each of their 2^bits centroids.
        training = (POINTS_PER_LIST + 1) << self.bits
        return self.built(codes, vectors, progress, device, making, refine=self.refine, training=training)

    def _parts(self, dim: int) -> int:
        if self.subquantisers is None:
            return next(number for number in range(max(1, dim // 4), 0, -1) if dim % number == 0)
        if dim % self.subquantisers:
            raise UserError(
                f"{self.subquantisers} sub-quantisers do not divide vectors of {dim} dimensions: name a divisor of it."
            )
        return self.subquantisers


@dataclass(frozen=True)
class RaBitQ(Inverted):
    """`RR{dim},IVF{lists},RaBitQfs`: the sign of each dimension after a random rotation, and two corrections.

    Gao, Long: RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
    Neighbor Search. SIGMOD 2024. https://arxiv.org/abs/2405.12497. Only the lists are trained.

    Attributes:
        bits: bits per dimension, 1 to 9.
        refine: candidates rescored exactly per result by default.
    """

    name: ClassVar[str] = "rabitq"

    bits: int = 1
    refine: int | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        if not 1 <= self.bits <= 9:
            raise UserError(f"A rabitq index has codes of 1 to 9 bits a dimension, not {self.bits}.")
        super().__post_init__()

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """The bits, the corrections, the id, and a share of the centroids and of the rotation."""
        corrections = 8 if self.bits == 1 else 16
        codes = self.bytes_of_blocks(self.bits * dim / 8, count) + corrections
        return codes + self.bytes_of_lists(count, dim) + 4 * dim * dim / max(1, count)

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Train the lists, add, and choose nprobe and refine by trial."""
        codes = "RaBitQfs" if self.bits == 1 else f"RaBitQfs{self.bits}"
        return self.built(codes, vectors, progress, device, making, refine=self.refine, before=f"RR{vectors.dim}")
