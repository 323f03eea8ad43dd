"""What an index family has to be able to do."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ibkd_retrieval.indexing.manifest import OperatingPoint, SearchDefaults
from ibkd_retrieval.indexing.shards import ShardVectors
from ibkd_retrieval.progress import Progress


class BuiltStructure(NamedTuple):
    """A filled faiss index.

    Attributes:
        index: the faiss index, whose ids are the rows of the vectors.
        factory: how it was made, as a faiss factory string.
        search: how to search it by default.
        operating_points: settings tried and what they gave.
    """

    index: Any
    factory: str
    search: SearchDefaults = SearchDefaults()
    operating_points: tuple[OperatingPoint, ...] = ()


class Family(Protocol):
    """A way to arrange vectors for search: a frozen dataclass whose fields are its options."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def suited_to(self, count: int, progress: Progress) -> Family:
        """This family, or the one to use instead for only `count` documents; the change is said."""

    def build(self, vectors: ShardVectors, progress: Progress) -> BuiltStructure:
        """Train on and add all `vectors`, by inner product, reading them shard by shard."""
