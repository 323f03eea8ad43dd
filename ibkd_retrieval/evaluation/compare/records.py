"""The records of a comparison: scores, contrasts, agreement, examples, bars, encoders, times, sizes and memory.

The report's JSON stores them under the names of their fields. docs/formats.md describes the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ibkd_retrieval.json_io import KEY

Interval = tuple[float, float]
"""Low and high end."""


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
        permutations: sign patterns that the randomisation test tried.
        exact: whether it tried all of them.
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
    """Agreement of a system's rankings with the first system's, as means over all queries.

    Attributes:
        overlap_at_10: share of the first ten documents that both have.
        rbo: rank-biased overlap, extrapolated, persistence 0.9.
    """

    overlap_at_10: float = field(metadata={KEY: "overlap@10"})
    rbo: float


@dataclass(frozen=True)
class Opinion:
    """A model's opinion of one system on one data set. No person judged.

    Attributes:
        score: nDCG@10 with the model's grades in the place of judgements.
        contrast: the difference to the first system, or None for that one.
    """

    score: MetricScore
    contrast: MetricContrast | None


@dataclass(frozen=True)
class PerQuery:
    """The values behind the means: query ids [q], and by system and metric one value for each [q]."""

    ids: tuple[str, ...]
    values: dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class RankedDocument:
    """A document in a ranking; `text` is cut after 200 characters (…), `relevance` None where nobody judged it."""

    id: str
    title: str
    text: str
    score: float
    relevance: int | None


@dataclass(frozen=True)
class Example:
    """A query with a large loss or gain against the first system.

    Attributes:
        system: name of the system.
        query_id: id of the query.
        query: text of the query.
        metric: the first metric of the comparison.
        baseline_value: value of the first system.
        value: value of this system.
        rankings: the first five documents of the first system and of this one, by system name.
    """

    system: str
    query_id: str
    query: str
    metric: str
    baseline_value: float
    value: float
    rankings: dict[str, tuple[RankedDocument, ...]]


@dataclass(frozen=True)
class Average:
    """One metric of one system over all data sets, each counting the same.

    Attributes:
        mean: mean of the data sets' means.
        retention: mean / first system's mean, or None if that is 0.
        retention_interval: bootstrap interval of the retention. Queries are resampled within each data set.
    """

    mean: float
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True)
class JudgeFigures:
    """The model that graded results, and its opinion of each system over all data sets.

    Attributes:
        name: name of the model.
        kind: "cross-encoder" or "encoder".
        averages: averages of its figure by system.
    """

    name: str
    kind: str
    averages: dict[str, Average]


@dataclass(frozen=True)
class Bar:
    """The result of a quality bar: the required and the measured retention, averaged over the data sets.

    Attributes:
        metric: name of the metric.
        at_least: the required retention.
        system: name of the system.
        retention: the measured retention, or None if the reference system scores 0.
        passed: whether the retention is high enough.
        why: a sentence that explains the result.
        against: the reference system.
        report: the report file of an earlier comparison with the reference system, or None for this comparison.
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
class EncoderFigures:
    """The encoder of a system's queries.

    Attributes:
        name: hub name or folder.
        weight_hash: hash of everything that determines a vector.
        dims: dimensions of a vector, after truncation.
        embedding_parameters: number of token embedding parameters. They cost memory but hardly any time.
        transformer_parameters: number of all other parameters.
        model_bytes: size of the weights in bytes.
        max_length: maximum number of tokens of a text. 0 has no limit.
        dtype: number format of the transformer's computation.
        device: the device it ran on.
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
