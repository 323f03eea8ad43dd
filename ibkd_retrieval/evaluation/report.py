"""What a comparison found: systems, their results on each data set, averages; as records and as JSON (version 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ibkd_retrieval.evaluation.cost_records import (
    BatchRate,
    Cost,
    EncoderFigures,
    Latency,
    PeakMemory,
    Sizes,
    Throughput,
)
from ibkd_retrieval.evaluation.environment import Environment
from ibkd_retrieval.evaluation.quality_records import (
    Agreement,
    Average,
    Bar,
    Example,
    Interval,
    MetricContrast,
    MetricScore,
    PerQuery,
)
from ibkd_retrieval.indexing.json_records import KEY, encode
from ibkd_retrieval.indexing.manifest import SearchDefaults

FORMAT_VERSION = 2
"""Of the JSON that `ComparisonReport.to_json` gives."""


@dataclass(frozen=True)
class SystemRecord:
    """One system: an encoder, cut to some length or not, a kind of index, and how that is searched.

    Attributes:
        name: short and unique.
        encoder: of the queries.
        family: of the index.
        settings: of the search as the user gave them, None where each index follows its own.
        throughput: of encoding documents; None where not measured.
        peak_memory: None where not measured.
        cost: None where the throughput was not measured.
    """

    name: str
    encoder: EncoderFigures
    family: str
    settings: SearchDefaults
    throughput: Throughput | None = None
    peak_memory: PeakMemory | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class EffortPoint:
    """What one effort of searching an approximate index finds, and how long that takes.

    Attributes:
        nprobe: inverted lists visited, None for a graph.
        ef_search: nodes of a graph kept in view, None where there are lists.
        recall_at_10: of the exact ten nearest.
        search_p50_ms: median of a search for ten results, without encoding.
        score: first metric.
    """

    nprobe: int | None
    ef_search: int | None
    recall_at_10: float = field(metadata={KEY: "recall@10"})
    search_p50_ms: float
    score: float


@dataclass(frozen=True)
class SystemResult:
    """One system on one data set.

    Attributes:
        index: name of the index folder.
        factory: faiss factory string.
        search: the settings in force for ten results.
        missing_queries: judged queries without results, counted as 0.
        scores: by metric.
        contrasts: by metric, against the first system; empty for that one.
        recall_against_exact: by depth ("10", "100"), the share of the documents that an exact search of the same
            vectors finds first.
        agreement: with the first system.
        latency_ms: per query.
        batch_queries_per_second: in batches.
        sizes: of the index.
        gains: by cost, how many times smaller or faster than the first system it is (above 1 is better, whatever the
            cost).
        gain_spread: of each gain that was timed, the least and the greatest over the rounds, each of which timed both.
        effort_curve: by growing effort; empty where the search is exact.
    """

    index: str
    factory: str
    search: SearchDefaults
    missing_queries: int
    scores: dict[str, MetricScore]
    contrasts: dict[str, MetricContrast]
    recall_against_exact: dict[str, float]
    agreement: Agreement
    latency_ms: Latency
    batch_queries_per_second: BatchRate
    sizes: Sizes
    gains: dict[str, float]
    gain_spread: dict[str, Interval]
    effort_curve: tuple[EffortPoint, ...]


@dataclass(frozen=True)
class DataSetReport:
    """All systems on one corpus and one set of judged queries.

    Attributes:
        name: short, unique in the comparison.
        corpus: the name that opens it again.
        fingerprint: of its documents.
        documents: how many can be found.
        queries: how many are judged.
        query_source: the name that opens them again.
        systems: by name.
        per_query: the values behind the means.
        examples: of each further system, those that lost most and then those that won most.
        relevance_level: lowest grade that counted as relevant for binary metrics; None in reports that do not say.
    """

    name: str
    corpus: str
    fingerprint: str
    documents: int
    queries: int
    query_source: str
    systems: dict[str, SystemResult]
    per_query: PerQuery
    examples: tuple[Example, ...]
    relevance_level: int | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """Systems side by side; the first is what the others are held against.

    Attributes:
        created: when, ISO 8601 in UTC.
        command: that made it.
        seed: of every random choice.
        confidence: of all intervals.
        bootstrap_samples: behind each interval.
        environment: what the costs were measured on.
        baseline: name of the first system.
        metrics: names as given; figures and sentences use the first.
        systems: in the order given.
        data_sets: in the order given.
        averages: by system and metric.
        bars: what was asked of the systems.
        k: results a query behind metrics without a cutoff; None in reports that do not say.
    """

    created: str
    command: str
    seed: int
    confidence: float
    bootstrap_samples: int
    environment: Environment
    baseline: str
    metrics: tuple[str, ...]
    systems: tuple[SystemRecord, ...]
    data_sets: tuple[DataSetReport, ...]
    averages: dict[str, dict[str, Average]]
    bars: tuple[Bar, ...] = ()
    k: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types: "format_version", then the fields; the schema is in docs/formats.md."""
        fields: dict[str, Any] = encode(self)
        return {"format_version": FORMAT_VERSION} | fields
