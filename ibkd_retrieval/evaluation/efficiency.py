"""What a system costs: size, memory, time; measured so that systems can be compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError

Vector = NDArray[np.float32]
Clock = Callable[[], float]
Item = TypeVar("Item")
Timed = TypeVar("Timed")


class Milliseconds(NamedTuple):
    """Median and 95th percentile of a duration, in milliseconds."""

    p50: float
    p95: float


class QueryLatency(NamedTuple):
    """Time from a query's text to its results, one query at a time.

    Attributes:
        encode: text to vector.
        search: vector to results.
        total: both; percentiles of the sums, not sums of percentiles.
        samples: timings of each.
    """

    encode: Milliseconds
    search: Milliseconds
    total: Milliseconds
    samples: int


class Throughput(NamedTuple):
    """Documents encoded per second: the median round, the slowest and the fastest."""

    documents_per_second: float
    slowest: float
    fastest: float
    documents: int
    rounds: int


@dataclass(frozen=True)
class Efficiency:
    """The costs of one system; None where not measured or not applicable.

    Attributes:
        embedding_parameters: in the token embedding tables, which cost memory but hardly any time.
        transformer_parameters: all others.
        dims: length of a vector.
        model_bytes: size of the weights on disk.
        documents: in the index.
        index_disk_bytes: all files of the index folder.
        index_memory_bytes: what must be in memory to search.
        latency: per query.
        throughput: of encoding documents.
    """

    embedding_parameters: int
    transformer_parameters: int
    dims: int
    model_bytes: int
    documents: int | None = None
    index_disk_bytes: int | None = None
    index_memory_bytes: int | None = None
    latency: QueryLatency | None = None
    throughput: Throughput | None = None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding_parameters + self.transformer_parameters

    @property
    def disk_bytes_per_document(self) -> float | None:
        """Index folder bytes per document."""
        return self.index_disk_bytes / self.documents if self.index_disk_bytes and self.documents else None

    @property
    def memory_bytes_per_document(self) -> float | None:
        """Index memory bytes per document."""
        return self.index_memory_bytes / self.documents if self.index_memory_bytes and self.documents else None

    def to_json(self) -> dict[str, Any]:
        """The fields and the derived figures, as JSON types."""
        latency, throughput = self.latency, self.throughput
        return {
            "parameters": self.parameters,
            "embedding_parameters": self.embedding_parameters,
            "transformer_parameters": self.transformer_parameters,
            "dims": self.dims,
            "model_bytes": self.model_bytes,
            "documents": self.documents,
            "index_disk_bytes": self.index_disk_bytes,
            "index_memory_bytes": self.index_memory_bytes,
            "disk_bytes_per_document": self.disk_bytes_per_document,
            "memory_bytes_per_document": self.memory_bytes_per_document,
            "query_latency_ms": latency
            and {
                "encode": latency.encode._asdict(),
                "search": latency.search._asdict(),
                "total": latency.total._asdict(),
                "samples": latency.samples,
            },
            "throughput": throughput and throughput._asdict(),
        }


class QueryPath(NamedTuple):
    """The two steps of answering: `encode` makes a vector of a text, `search` finds results for it."""

    encode: Callable[[str], Vector]
    search: Callable[[Vector], object]


def measure_latency(
    systems: Mapping[str, QueryPath],
    queries: Sequence[str],
    rounds: int = 3,
    warmup: int = 10,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, QueryLatency]:
    """Time single queries through several systems, taking turns query by query.

    Each query goes through all systems, in a new random order, before the next query is taken: what else the
    machine does hits all systems alike.

    Args:
        systems: by name.
        queries: texts, each timed once a round.
        rounds: how often all queries are gone through.
        warmup: queries answered by each system before timing starts.
        seed: of the order.
        clock: seconds.

    Raises:
        UserError: no systems, no queries, or fewer than one round.
    """
    _check(systems, len(queries), rounds, "queries")
    encode: dict[str, list[float]] = {name: [] for name in systems}
    search: dict[str, list[float]] = {name: [] for name in systems}
    for path in systems.values():
        for number in range(warmup):
            path.search(path.encode(queries[number % len(queries)]))
    for query, name, path in _turns(systems, queries, rounds, seed):
        start = clock()
        vector = path.encode(query)
        middle = clock()
        path.search(vector)
        end = clock()
        encode[name].append(middle - start)
        search[name].append(end - middle)
    return {
        name: QueryLatency(
            encode=_milliseconds(np.array(encode[name])),
            search=_milliseconds(np.array(search[name])),
            total=_milliseconds(np.array(encode[name]) + np.array(search[name])),
            samples=len(encode[name]),
        )
        for name in systems
    }


def measure_throughput(
    systems: Mapping[str, Callable[[Sequence[str]], object]],
    documents: Sequence[str],
    rounds: int = 5,
    warmup: int = 1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Throughput]:
    """Time the encoding of a sample of documents, the systems taking turns round by round.

    Args:
        systems: a function by name that encodes a list of texts.
        documents: the sample, encoded whole in each round.
        rounds: timed encodings per system.
        warmup: encodings of the sample by each system before timing starts.
        seed: of the order within a round.
        clock: seconds.

    Raises:
        UserError: no systems, no documents, or fewer than one round.
    """
    _check(systems, len(documents), rounds, "documents")
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for encode in systems.values():
        for _ in range(warmup):
            encode(documents)
    for sample, name, encode in _turns(systems, [documents], rounds, seed):
        start = clock()
        encode(sample)
        rates[name].append(len(sample) / max(clock() - start, 1e-9))
    return {
        name: Throughput(float(np.median(found)), min(found), max(found), len(documents), rounds)
        for name, found in rates.items()
    }


def _turns(
    systems: Mapping[str, Timed], items: Sequence[Item], rounds: int, seed: int
) -> Iterator[tuple[Item, str, Timed]]:
    order = random.Random(seed)
    names = list(systems)
    for _ in range(rounds):
        for item in items:
            for name in order.sample(names, len(names)):
                yield item, name, systems[name]


def _milliseconds(seconds: NDArray[np.float64]) -> Milliseconds:
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    return Milliseconds(float(p50), float(p95))


def _check(systems: Mapping[str, object], items: int, rounds: int, unit: str) -> None:
    if not systems or not items or rounds < 1:
        raise UserError(
            f"Nothing to time: got {len(systems)} systems, {items} {unit} and {rounds} rounds; give at least one each."
        )
