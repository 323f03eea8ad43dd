"""What a comparison says of cost, as records: encoders, times, sizes, memory.

They are stored in the report's JSON by the names of their fields, which docs/formats.md describes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibkd_retrieval.evaluation.compare.quality_records import Interval


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
