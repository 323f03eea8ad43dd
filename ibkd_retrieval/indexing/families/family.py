"""The protocol of an index family."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.format.manifest import OperatingPoint
from ibkd_retrieval.indexing.vectors.source import VectorSource
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

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
        """Train on and add all `vectors`, by inner product, reading them shard by shard.

        On the device "cuda" k-means runs on a GPU where faiss has one; the index that comes back lies in main memory.
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
