"""The few figures of a system that tell its story: quality, speed, memory; over all data sets together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ibkd_retrieval.evaluation.compare.quality_records import Interval, MetricContrast
from ibkd_retrieval.evaluation.compare.report import ComparisonReport, SystemResult
from ibkd_retrieval.evaluation.report.numbers import counted, known
from ibkd_retrieval.evaluation.scores import SIGNIFICANT

SPEED, MEMORY = "query_total_p50", "index_memory_bytes"
"""Names of the gains that are shown."""


class Glance(NamedTuple):
    """One system in short.

    Attributes:
        name: of the system.
        mean: of the first metric, averaged over the data sets.
        interval: of the mean; None over several data sets.
        retention: share of the first system's mean; None where that is 0.
        retention_interval: of the retention; None where unknown.
        contrasts: of the first metric by data set; empty for the first system.
        milliseconds: median time of a query; over several data sets the geometric mean.
        milliseconds_spread: the least and greatest of the rounds' medians.
        speed: how many times as fast as the first system.
        speed_spread: least and greatest over the rounds.
        memory_per_document: bytes of index memory; None where an index is scanned on disk.
        memory: how many times less index memory than the first system's; None where an index of either is scanned.
        documents_per_second: encoded; None where not measured.
        parameters: of the encoder.
    """

    name: str
    mean: float
    interval: Interval | None
    retention: float | None
    retention_interval: Interval | None
    contrasts: dict[str, MetricContrast]
    milliseconds: float
    milliseconds_spread: Interval
    speed: float
    speed_spread: Interval
    memory_per_document: float | None
    memory: float | None
    documents_per_second: float | None
    parameters: int


def glances(comparison: ComparisonReport) -> list[Glance]:
    """Every system in short, in the order given."""
    metric, data_sets = comparison.metrics[0], comparison.data_sets
    first = [each.systems[comparison.baseline] for each in data_sets]
    documents = sum(each.documents for each in data_sets)
    first_bytes = _bytes_in_memory(first)
    found = []
    for system in comparison.systems:
        results = [each.systems[system.name] for each in data_sets]
        average = comparison.averages[system.name][metric]
        only = results[0].scores[metric] if len(results) == 1 else None
        medians = [result.latency_ms.total for result in results]
        spreads = [_speed_spread(ours, theirs) for ours, theirs in zip(results, first, strict=True)]
        our_bytes = _bytes_in_memory(results)
        found.append(
            Glance(
                name=system.name,
                mean=average.mean,
                interval=only.interval if only else None,
                retention=known(only.retention if only else average.retention),
                retention_interval=only.retention_interval if only else average.retention_interval,
                contrasts={
                    each.name: result.contrasts[metric]
                    for each, result in zip(data_sets, results, strict=True)
                    if metric in result.contrasts
                },
                milliseconds=_geometric_mean([each.p50 for each in medians]),
                milliseconds_spread=_mean_interval([each.spread for each in medians]),
                speed=_geometric_mean([_speed(ours, theirs) for ours, theirs in zip(results, first, strict=True)]),
                speed_spread=_mean_interval(spreads),
                memory_per_document=our_bytes / max(1, documents) if our_bytes else None,
                memory=first_bytes / our_bytes if first_bytes and our_bytes else None,
                documents_per_second=system.throughput.documents_per_second if system.throughput else None,
                parameters=system.encoder.parameters,
            )
        )
    return found


def counted_queries(comparison: ComparisonReport, number: int) -> str:
    """How many queries were judged, or that nobody judged them."""
    if comparison.is_judged:
        return counted(number, "judged query", "judged queries")
    return f"{counted(number, 'query', 'queries')} without judgements"


def significant(contrast: MetricContrast) -> bool:
    """Whether the difference is significant by the paired randomisation test with Holm's correction."""
    return contrast.randomisation_p_holm < SIGNIFICANT


def _bytes_in_memory(results: Sequence[SystemResult]) -> int | None:
    """What a system's indexes hold in memory; None where one of them is scanned, since the sum lacks it."""
    sizes = [result.sizes.index_memory_bytes for result in results]
    return sum(sizes) if all(sizes) else None


def _speed(ours: SystemResult, first: SystemResult) -> float:
    return ours.gains.get(SPEED) or first.latency_ms.total.p50 / ours.latency_ms.total.p50


def _speed_spread(ours: SystemResult, first: SystemResult) -> Interval:
    if SPEED in ours.gain_spread:
        return ours.gain_spread[SPEED]
    (low, high), (first_low, first_high) = ours.latency_ms.total.spread, first.latency_ms.total.spread
    return first_low / high, first_high / low


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _mean_interval(intervals: Sequence[Interval]) -> Interval:
    lows, highs = zip(*intervals, strict=True)
    return _geometric_mean(lows), _geometric_mean(highs)
