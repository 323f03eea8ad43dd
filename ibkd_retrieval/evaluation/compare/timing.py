"""Timings that are comparable: all systems run in one process and take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.records import BatchRate, Histogram, Interval, Latency, Percentiles, Throughput

Vector = NDArray[np.float32]
Seconds = NDArray[np.float64]
Clock = Callable[[], float]
Item = TypeVar("Item")
Timed = TypeVar("Timed")

BINS = 40
"""Of a histogram of latencies."""

_WARM_DOCUMENTS = 16


class QueryPath(NamedTuple):
    """The two steps of answering: `encode` makes a vector of a text, `search` finds results for it."""

    encode: Callable[[str], Vector]
    search: Callable[[Vector], object]


class QueryTimings(NamedTuple):
    """Seconds of each round and query, [rounds, queries], in the same places for all systems timed together."""

    encode: Seconds
    search: Seconds

    @property
    def total(self) -> Seconds:
        """From text to results."""
        return self.encode + self.search


def time_queries(
    systems: Mapping[str, QueryPath],
    queries: Sequence[str],
    rounds: int = 8,
    warmup: int = 10,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    done: Callable[[], None] = lambda: None,
) -> dict[str, QueryTimings]:
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
        done: called after each timing, while no clock runs.

    Raises:
        UserError: no systems, no queries, or fewer than one round.
    """
    _check(systems, len(queries), rounds, "queries")
    found = {name: QueryTimings(*np.zeros((2, rounds, len(queries)))) for name in systems}
    for path in systems.values():
        for number in range(warmup):
            path.search(path.encode(queries[number % len(queries)]))
    for turn, place, name, path in _turns(systems, len(queries), rounds, seed):
        start = clock()
        vector = path.encode(queries[place])
        middle = clock()
        path.search(vector)
        end = clock()
        found[name].encode[turn, place] = middle - start
        found[name].search[turn, place] = end - middle
        done()
    return found


def latency_of(timings: QueryTimings, edges: Seconds) -> Latency:
    """Percentiles, spread and histogram of one system's timings.

    Args:
        timings: of the system.
        edges: of the histogram, seconds (`histogram_edges`).
    """
    counts, _ = np.histogram(timings.total, edges)
    return Latency(
        encode=_percentiles(timings.encode),
        search=_percentiles(timings.search),
        total=_percentiles(timings.total),
        samples=timings.total.size,
        histogram=Histogram(tuple((1000 * edges).tolist()), tuple(counts.tolist())),
    )


def histogram_edges(timings: Sequence[QueryTimings]) -> Seconds:
    """Edges [BINS + 1], in seconds, that are evenly spaced in the logarithm and take in every total."""
    totals = np.concatenate([each.total.ravel() for each in timings])
    low, high = max(float(totals.min()), 1e-9), max(float(totals.max()), 1e-9)
    edges = np.geomspace(low, max(high, low * 1.001), BINS + 1)
    # geomspace may end a rounding error inside.
    edges[0], edges[-1] = min(edges[0], totals.min()), max(edges[-1], totals.max())
    return edges


class Ratio(NamedTuple):
    """The median of the rounds' ratios, the least and the greatest."""

    median: float
    spread: Interval


def ratio(first: Seconds, other: Seconds, share: float = 0.5) -> Ratio:
    """How many times longer the first took, by a quantile of each round.

    A round times both within the same seconds, so what slows one slows the other, and the rounds' ratios spread less
    than the times.

    Args:
        first: seconds [rounds, n].
        other: seconds [rounds, n].
        share: of the quantile, the median by default.
    """
    ratios = np.quantile(first, share, axis=1) / np.quantile(other, share, axis=1)
    return Ratio(float(np.median(ratios)), (float(ratios.min()), float(ratios.max())))


def time_encoding(
    systems: Mapping[str, Callable[[Sequence[str]], object]],
    documents: Sequence[str],
    rounds: int = 5,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Seconds]:
    """Time the work on a sample of texts, the systems taking turns round by round; a part of it warms up before.

    Args:
        systems: a function by name that encodes (or encodes and searches) a list of texts.
        documents: the sample, gone through whole in each round.
        rounds: timed runs per system.
        seed: of the order within a round.
        clock: seconds.
        done: called after each timing, while no clock runs.

    Returns:
        Seconds [rounds, 1] by name.

    Raises:
        UserError: no systems, no documents, or fewer than one round.
    """
    _check(systems, len(documents), rounds, "documents")
    found = {name: np.zeros((rounds, 1)) for name in systems}
    for encode in systems.values():
        encode(documents[:_WARM_DOCUMENTS])
    for turn, _, name, encode in _turns(systems, 1, rounds, seed):
        start = clock()
        encode(documents)
        found[name][turn] = max(clock() - start, 1e-9)
        done()
    return found


def measure_throughput(
    systems: Mapping[str, Callable[[Sequence[str]], object]],
    documents: Sequence[str],
    rounds: int = 5,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Throughput]:
    """Documents encoded per second by each system; the arguments are those of `time_encoding`.

    Raises:
        UserError: no systems, no documents, or fewer than one round.
    """
    found = time_encoding(systems, documents, rounds, seed, clock)
    return {name: throughput_of(seconds, len(documents)) for name, seconds in found.items()}


def throughput_of(seconds: Seconds, documents: int) -> Throughput:
    """Rates of a sample of `documents` that took `seconds` [rounds, 1]."""
    rates = documents / seconds
    return Throughput(float(np.median(rates)), float(rates.min()), float(rates.max()), documents, len(seconds))


def batch_rate_of(seconds: Seconds, queries: int) -> BatchRate:
    """Rates of a batch of `queries` that took `seconds` [rounds, 1]."""
    rates = queries / seconds
    return BatchRate(float(np.median(rates)), float(rates.min()), float(rates.max()), queries)


def _turns(systems: Mapping[str, Timed], items: int, rounds: int, seed: int) -> Iterator[tuple[int, int, str, Timed]]:
    order = random.Random(seed)
    names = list(systems)
    for turn in range(rounds):
        for place in range(items):
            for name in order.sample(names, len(names)):
                yield turn, place, name, systems[name]


def _percentiles(seconds: Seconds) -> Percentiles:
    p50, p95, p99 = (1000 * np.quantile(seconds, [0.5, 0.95, 0.99])).tolist()
    medians = 1000 * np.median(seconds, axis=1)
    return Percentiles(p50, p95, p99, (float(medians.min()), float(medians.max())))


def _check(systems: Mapping[str, object], items: int, rounds: int, unit: str) -> None:
    if not systems or not items or rounds < 1:
        raise UserError(
            f"Nothing to time: got {len(systems)} systems, {items} {unit} and {rounds} rounds; give at least one each."
        )
