"""What a comparison found, as records and as JSON (format version 2)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.environment import Environment
from ibkd_retrieval.indexing.json_records import KEY, decode, encode
from ibkd_retrieval.indexing.manifest import SearchDefaults

FORMAT_VERSION = 2
"""Of the JSON that `ComparisonReport.to_json` gives."""

Interval = tuple[float, float]
"""Low and high end."""


@dataclass(frozen=True)
class EncoderFigures:
    """The encoder of a system's queries.

    Attributes:
        name: hub name or folder.
        weight_hash: of all that decides a vector.
        dims: length of a vector, after cutting.
        embedding_parameters: in the token tables, which cost memory but hardly any time.
        transformer_parameters: all others.
        model_bytes: of the weights.
        max_length: tokens read of a text, 0 where all is read.
        dtype: of the transformer's arithmetic.
        device: where it ran.
    """

    name: str
    weight_hash: str
    dims: int
    embedding_parameters: int
    transformer_parameters: int
    model_bytes: int
    max_length: int
    dtype: str
    device: str

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding_parameters + self.transformer_parameters


@dataclass(frozen=True)
class Throughput:
    """Documents encoded per second: the median round, the slowest and the fastest."""

    documents_per_second: float
    slowest: float
    fastest: float
    documents: int
    rounds: int


@dataclass(frozen=True)
class PeakMemory:
    """The most memory a fresh process took that loaded model and index and answered queries one by one.

    Attributes:
        bytes: resident, libraries and mapped files among them.
        rss_before: resident once Python and the libraries were loaded, before model and index were.
        vram_bytes: allocated on the GPU at most; None without one.
        data_set: whose index was loaded, the largest of the comparison.
        queries: answered.
    """

    bytes: int
    rss_before: int
    vram_bytes: int | None
    data_set: str
    queries: int


@dataclass(frozen=True)
class IndexGigabytes:
    """10^9 bytes of an index, all its files and what is in memory while it is searched."""

    disk: float
    memory: float


@dataclass(frozen=True)
class Cost:
    """What a corpus of another size would cost.

    Attributes:
        passages_per_cpu_hour: documents that one processor encodes in an hour; None where a GPU encoded.
        index_gigabytes: by number of passages, proportional to the bytes per document of `data_set`.
        data_set: the largest of the comparison.
        extrapolated: always true: nothing of that size was built.
    """

    passages_per_cpu_hour: float | None
    index_gigabytes: dict[str, IndexGigabytes]
    data_set: str
    extrapolated: bool = True


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
class MetricScore:
    """One metric of one system.

    Attributes:
        mean: over the judged queries.
        interval: bootstrap interval of the mean.
        retention: mean / first system's mean; None where that is 0.
        retention_interval: bootstrap interval of the retention, both systems resampled together; None where a
            resample of the first system has mean 0.
    """

    mean: float
    interval: Interval
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True)
class MetricContrast:
    """One metric of one system against the first system.

    Attributes:
        difference: system's mean minus first system's mean.
        interval: bootstrap interval of the difference.
        t_test_p: paired t-test, two-sided; None with a single query.
        randomisation_p: Fisher's paired randomisation test, two-sided.
        randomisation_p_holm: the same, corrected by Holm for all contrasts of the comparison, all data sets together.
        permutations: sign patterns the randomisation test looked at.
        exact: it looked at all of them.
        wins: queries on which the system is better.
        ties: queries without a difference.
        losses: queries on which the first system is better.
    """

    difference: float
    interval: Interval
    t_test_p: float | None
    randomisation_p: float
    randomisation_p_holm: float
    permutations: int
    exact: bool
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Agreement:
    """How alike a system's rankings are to the first system's, as means over all queries.

    Attributes:
        overlap_at_10: share of the first ten documents that both have.
        rbo: rank-biased overlap, extrapolated, persistence 0.9.
    """

    overlap_at_10: float = field(metadata={KEY: "overlap@10"})
    rbo: float


@dataclass(frozen=True)
class Percentiles:
    """Of a duration, in milliseconds; `spread` is the least and the greatest of the rounds' medians."""

    p50: float
    p95: float
    p99: float
    spread: Interval


@dataclass(frozen=True)
class Histogram:
    """How often a duration fell between neighbouring edges [n + 1], in milliseconds; counts [n]."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Latency:
    """Time from a query's text to its ten results, one query at a time.

    Attributes:
        encode: text to vector.
        search: vector to results.
        total: both; percentiles of the sums, not sums of percentiles.
        samples: timings of each.
        histogram: of the total; the edges are the same for all systems of a data set.
    """

    encode: Percentiles
    search: Percentiles
    total: Percentiles
    samples: int
    histogram: Histogram


@dataclass(frozen=True)
class BatchRate:
    """Queries a second, from texts to ten results each, in batches of `batch`: the median round and the range."""

    median: float
    slowest: float
    fastest: float
    batch: int


@dataclass(frozen=True)
class Sizes:
    """Of an index: all its files, and what has to be in memory while it is searched."""

    index_disk_bytes: int
    index_memory_bytes: int
    disk_bytes_per_document: float
    memory_bytes_per_document: float


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
class PerQuery:
    """The values behind the means: query ids [q], and by system and metric one value for each [q]."""

    ids: tuple[str, ...]
    values: dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class RankedDocument:
    """A document in a ranking; `text` is cut to 200 characters, `relevance` None where nobody judged it."""

    id: str
    title: str
    text: str
    score: float
    relevance: int | None


@dataclass(frozen=True)
class Example:
    """A query that a system lost or won much on, against the first system.

    Attributes:
        system: its name.
        query_id: of the query.
        query: its text.
        metric: the first one.
        baseline_value: of the first system.
        value: of the system.
        rankings: the first five documents of the first system and of this one, by name.
    """

    system: str
    query_id: str
    query: str
    metric: str
    baseline_value: float
    value: float
    rankings: dict[str, tuple[RankedDocument, ...]]


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


@dataclass(frozen=True)
class Average:
    """One metric of one system over all data sets, each counting the same.

    Attributes:
        mean: of the data sets' means.
        retention: mean / first system's mean; None where that is 0.
        retention_interval: queries resampled within each data set.
    """

    mean: float
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True)
class Bar:
    """A share of the first system's score that a system has to keep, averaged over the data sets, and whether it does.

    Attributes:
        metric: its name.
        at_least: the share.
        system: held against it.
        retention: the share kept; None where the first system scores 0.
        passed: whether that is at least as much.
        why: a sentence.
        against: the system that the share is of.
        report: the file of an earlier comparison that holds that system's scores; None where it is of this one.
    """

    metric: str
    at_least: float
    system: str
    retention: float | None
    passed: bool
    why: str
    against: str
    report: str | None = None


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

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types: "format_version", then the fields; the schema is in docs/formats.md."""
        fields: dict[str, Any] = encode(self)
        return {"format_version": FORMAT_VERSION} | fields


def read_comparison(path: Path | str) -> ComparisonReport:
    """Read the JSON of a comparison.

    Raises:
        UserError: the file is missing, no comparison, damaged, or of an older or newer format.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the report.json of `ibkd compare`.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): name the report.json of `ibkd compare`.") from error
    version = value.get("format_version") if isinstance(value, dict) else None
    if type(version) is not int or "systems" not in value:
        raise UserError(f"{path} holds no comparison: name the report.json of `ibkd compare --output FOLDER`.")
    if version < FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, which lacks what is read here: make it again with `ibkd compare`."
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, this version of ibkd-retrieval reads {FORMAT_VERSION}: upgrade "
            "with `pip install -U ibkd-retrieval`."
        )
    try:
        report = decode(ComparisonReport, value)
        _check(report)
    except ValueError as error:
        raise UserError(f"{path} is a damaged comparison ({error}): make it again with `ibkd compare`.") from error
    return report


def _check(report: ComparisonReport) -> None:
    names = [system.name for system in report.systems]
    if not names or not report.data_sets or not report.metrics:
        raise ValueError("it has no systems, no data sets or no metrics")
    if report.baseline != names[0] or len(set(names)) < len(names):
        raise ValueError("the first system is not the baseline, or two have one name")
    if set(report.averages) != set(names) or any(
        set(found) != set(report.metrics) for found in report.averages.values()
    ):
        raise ValueError("averages are not of the systems and metrics")
    for each in report.data_sets:
        values = each.per_query.values
        if set(each.systems) != set(names) or set(values) != set(names):
            raise ValueError(f"data set {each.name} does not have the systems {', '.join(names)}")
        if any(set(values[name]) != set(report.metrics) for name in names):
            raise ValueError(f"data set {each.name} lacks the values of a metric")
        if any(set(result.scores) != set(report.metrics) for result in each.systems.values()):
            raise ValueError(f"data set {each.name} lacks the scores of a metric")
        if any(len(column) != len(each.per_query.ids) for found in values.values() for column in found.values()):
            raise ValueError(f"data set {each.name} does not have one value for each query")
