"""A family that is chosen by trial once the vectors exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families import Family
from ibkd_retrieval.indexing.families.auto import Choice, choose
from ibkd_retrieval.indexing.families.family import FEWEST_DOCUMENTS, BuiltStructure, check_recall
from ibkd_retrieval.indexing.families.flat import Flat
from ibkd_retrieval.indexing.vectors.source import VectorSource
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class Wanted:
    """The targets of an index. It stands for a family until the trial chooses one.

    Attributes:
        recall: target recall@10, against exact search.
        memory_per_vector: maximum bytes of memory per vector. None is no limit.
        milliseconds: maximum time per query. None is no limit.
    """

    name: ClassVar[str] = "chosen"

    recall: float
    memory_per_vector: int | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers before any vectors are computed.

        Raises:
            UserError: one is outside its range.
        """
        check_recall(self.recall)
        for option, value in (("memory_per_vector", self.memory_per_vector), ("latency", self.milliseconds)):
            if value is not None and not value > 0:
                raise UserError(f"`{option}` is {value:g}: give a number above 0.")

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index where the documents are too few to train anything else."""
        return self if count >= FEWEST_DOCUMENTS else Flat()

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """What is allowed, or a flat index's."""
        return 4 * dim if self.memory_per_vector is None else self.memory_per_vector

    def choice(self, vectors: VectorSource, progress: Progress) -> Choice:
        """Try the families on a sample of the vectors.

        Raises:
            UserError: no family reaches all targets. The message says what is reachable.
        """
        return choose(vectors, self.recall, self.memory_per_vector, self.milliseconds, progress=progress)

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
        """Choose a family and build it."""
        return self.choice(vectors, progress).family.build(vectors, progress, device)
