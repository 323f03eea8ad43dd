"""The main figures of each system in a report, and the queries with the largest losses and gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ibkd_retrieval.evaluation.compare.records import Example, Interval, MetricContrast, RankedDocument
from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport, SystemResult
from ibkd_retrieval.evaluation.formatting import counted, known
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


class ShownDocument(NamedTuple):
    """A document in a ranking.

    Attributes:
        document: as it was found.
        judged: what the judgements say of it, in words.
        relevant: whether they call it relevant.
        elsewhere: its rank in the other ranking, from 1; None where that lacks it.
    """

    document: RankedDocument
    judged: str
    relevant: bool
    elsewhere: int | None


class ShownExample(NamedTuple):
    """A query with the rankings of the first system and of another.

    Attributes:
        example: as it was recorded.
        rankings: names of the two systems, each with its first documents.
    """

    example: Example
    rankings: tuple[tuple[str, tuple[ShownDocument, ...]], ...]


class SystemExamples(NamedTuple):
    """The queries of one system: those it lost most on, and those it won most on."""

    system: str
    lost: tuple[ShownExample, ...]
    won: tuple[ShownExample, ...]


def shown_examples(data_set: DataSetReport, baseline: str) -> list[SystemExamples]:
    """The examples of a data set by system, greatest loss and greatest gain first."""
    by_system: dict[str, list[Example]] = {}
    for example in data_set.examples:
        by_system.setdefault(example.system, []).append(example)
    found = []
    for system, examples in by_system.items():
        ordered = sorted(examples, key=lambda each: each.value - each.baseline_value)
        lost = [_shown(each, baseline) for each in ordered if each.value < each.baseline_value]
        won = [_shown(each, baseline) for each in reversed(ordered) if each.value > each.baseline_value]
        if lost or won:
            found.append(SystemExamples(system, tuple(lost), tuple(won)))
    return found


def _shown(example: Example, baseline: str) -> ShownExample:
    first, ours = example.rankings[baseline], example.rankings[example.system]
    return ShownExample(example, ((baseline, _documents(first, ours)), (example.system, _documents(ours, first))))


def _documents(ranking: Sequence[RankedDocument], other: Sequence[RankedDocument]) -> tuple[ShownDocument, ...]:
    ranks = {document.id: rank for rank, document in enumerate(other, 1)}
    return tuple(
        ShownDocument(document, _judged(document.relevance), bool(document.relevance), ranks.get(document.id))
        for document in ranking
    )


def _judged(relevance: int | None) -> str:
    if relevance is None:
        return "not judged"
    if relevance <= 0:
        return "not relevant"
    return "relevant" if relevance == 1 else f"relevant, grade {relevance}"
