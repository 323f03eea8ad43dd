"""Time and memory of all systems of a comparison. Systems take turns while they are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.evaluation.agreement import OVERLAP_DEPTH
from ibkd_retrieval.evaluation.compare.comparison import Resampling
from ibkd_retrieval.evaluation.compare.memory import Load, measure_footprint
from ibkd_retrieval.evaluation.compare.rankings import ComparedData
from ibkd_retrieval.evaluation.compare.records import (
    Cost,
    EncoderFigures,
    IndexGigabytes,
    PeakMemory,
    Sizes,
    Throughput,
)
from ibkd_retrieval.evaluation.compare.timing import (
    QueryPath,
    QueryTimings,
    Ratio,
    Seconds,
    Vector,
    ratio,
    time_encoding,
    time_queries,
)
from ibkd_retrieval.indexing.index import StoredIndex
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.searcher import Searcher

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

EncoderKey = tuple[str, int, str, str, str | None]


@dataclass(frozen=True)
class Measuring:
    """The settings of the measurements.

    Attributes:
        k: results per query for metrics without a cutoff.
        rounds: number of timing rounds.
        latency_queries: queries timed one by one per round, drawn at random.
        batch: queries per batch.
        throughput_documents: stored documents encoded per round to measure throughput. 0 skips it.
        curve_queries: queries timed per round for each point of a tradeoff curve.
        memory_queries: queries that a fresh process answers to measure its memory. 0 skips it.
        resampling: settings of intervals and tests.
    """

    k: int = 1000
    rounds: int = 8
    latency_queries: int = 64
    batch: int = 64
    throughput_documents: int = 64
    curve_queries: int = 24
    memory_queries: int = 20
    resampling: Resampling = field(default_factory=Resampling)

    @property
    def seed(self) -> int:
        """The random seed."""
        return self.resampling.seed


def encoder_key(searcher: Searcher) -> EncoderKey | None:
    """What tells encoders of documents apart by the time they take; one that only cuts its vectors takes the same.

    None where queries are encoded by another model than the documents were.
    """
    encoder = searcher.encoder
    if encoder.weight_hash != searcher.index.manifest.encoder.weight_hash:
        return None
    return encoder.name, encoder.max_length, encoder.dtype, encoder.device, encoder.pooling


def encoder_figures(searcher: Searcher) -> EncoderFigures:
    """What the encoder of a searcher is."""
    encoder: Encoder = searcher.encoder  # type: ignore[assignment]
    return EncoderFigures(
        name=encoder.name,
        weight_hash=encoder.weight_hash,
        dims=encoder.dim,
        embedding_parameters=encoder.parameters["embedding"],
        transformer_parameters=encoder.parameters["transformer"],
        model_bytes=encoder.model_bytes,
        max_length=encoder.max_length,
        dtype=encoder.dtype,
        device=encoder.device,
    )


@dataclass(frozen=True)
class DocumentTimes:
    """Seconds of encoding a sample of `documents` documents [rounds, 1], by encoder; none where not measured."""

    documents: int
    seconds: Mapping[EncoderKey, Seconds]

    def of(self, searcher: Searcher) -> Seconds | None:
        """Those of the encoder that made a searcher's index."""
        key = encoder_key(searcher)
        return None if key is None else self.seconds.get(key)


def time_documents(data: ComparedData, measuring: Measuring, progress: Progress = SILENT) -> DocumentTimes:
    """Encode a sample of the stored documents, evenly spaced, with each encoder in turn."""
    keyed = {encoder_key(searcher): searcher.encoder for searcher in data.searchers.values()}
    encoders = {key: encoder for key, encoder in keyed.items() if key is not None}
    index = next(iter(data.searchers.values())).index
    wanted = min(measuring.throughput_documents, len(index))
    if not wanted or not encoders:
        return DocumentTimes(0, {})
    step = index.manifest.rows // wanted
    sample = [index.document(row).content for row in islice(range(0, index.manifest.rows, step), wanted)]
    keys = {str(number): key for number, key in enumerate(encoders)}
    with progress.task("Timing encoders", measuring.rounds * len(encoders), "runs") as task:
        found = time_encoding(
            {number: encoders[key].encode for number, key in keys.items()},
            sample,
            rounds=measuring.rounds,
            seed=measuring.seed,
            done=task.advance,
        )
    return DocumentTimes(wanted, {keys[number]: seconds for number, seconds in found.items()})


def watch_memory(data: ComparedData, measuring: Measuring, progress: Progress = SILENT) -> dict[str, PeakMemory]:
    """What a fresh process takes for each system on a data set.

    Raises:
        WorkFailed: a process ended without its figures.
    """
    if not measuring.memory_queries:
        return {}
    texts = [query.text for query in data.used_queries[: measuring.memory_queries]]
    found = {}
    with progress.task("Measuring memory", len(data.searchers), "systems") as task:
        for name, searcher in data.searchers.items():
            seen = measure_footprint(Load.of(searcher, texts))
            found[name] = PeakMemory(seen.peak, seen.before, seen.vram, data.name, len(texts))
            task.advance()
    return found


def measure(
    data: ComparedData,
    measuring: Measuring,
    documents: DocumentTimes,
    memory: Mapping[str, PeakMemory],
    progress: Progress = SILENT,
) -> dict[str, Measured]:
    """Time all systems of a data set, one query at a time and in batches, and put their costs together."""
    texts = [query.text for query in data.used_queries]
    rng = np.random.default_rng(measuring.seed)
    drawn = rng.choice(len(texts), min(measuring.latency_queries, len(texts)), replace=False)
    batch = [texts[place % len(texts)] for place in range(measuring.batch)]
    # One at a time, and once in a batch.
    timings = measuring.rounds * len(data.searchers) * (len(drawn) + 1)
    with progress.task(f"Timing queries of {data.name}", timings, "timings") as task:
        queries = time_queries(
            {name: _query_path(searcher) for name, searcher in data.searchers.items()},
            [texts[place] for place in drawn],
            rounds=measuring.rounds,
            seed=measuring.seed,
            done=task.advance,
        )
        batches = time_encoding(
            {name: _batch_path(searcher) for name, searcher in data.searchers.items()},
            batch,
            rounds=measuring.rounds,
            seed=measuring.seed,
            done=task.advance,
        )
    return {
        name: Measured(
            encoder=encoder_figures(searcher),
            sizes=sizes_of(searcher.index),
            queries=queries[name],
            batches=batches[name],
            documents=documents.of(searcher),
            memory=memory[name] if name in memory and memory[name].data_set == data.name else None,
        )
        for name, searcher in data.searchers.items()
    }


def _query_path(searcher: Searcher) -> QueryPath:
    return QueryPath(
        encode=lambda text: searcher.encoder.encode([text], "query"),
        search=lambda vector: _found(searcher, vector),
    )


def _batch_path(searcher: Searcher) -> Callable[[Sequence[str]], object]:
    return lambda texts: _found(searcher, searcher.encoder.encode(texts, "query"))


def _found(searcher: Searcher, vectors: Vector) -> object:
    return searcher.index.search(vectors, OVERLAP_DEPTH, searcher.search_params)


COLLECTIONS = (8_841_823, 1_000_000_000)
"""Passages for which the size of an index is extrapolated: MS MARCO's, and a billion."""


@dataclass(frozen=True)
class Measured:
    """What is known of the costs of one system on one data set.

    Attributes:
        encoder: of its queries.
        sizes: of its index.
        queries: seconds of single ones.
        batches: seconds of batches of queries [rounds, 1].
        documents: seconds of encoding the sample of documents [rounds, 1]; None where not measured.
        memory: None where not measured on this data set.
    """

    encoder: EncoderFigures
    sizes: Sizes
    queries: QueryTimings
    batches: Seconds
    documents: Seconds | None = None
    memory: PeakMemory | None = None


def sizes_of(index: StoredIndex) -> Sizes:
    """Bytes of an index, in all and for each document that can be found."""
    count = max(1, len(index))
    return Sizes(index.disk_bytes, index.memory_bytes, index.disk_bytes / count, index.memory_bytes / count)


def timed_gains(ours: Measured, first: Measured) -> dict[str, Ratio]:
    """By cost, how many times faster than the first system, round by round."""
    found = {
        "query_encode_p50": ratio(first.queries.encode, ours.queries.encode),
        "query_search_p50": ratio(first.queries.search, ours.queries.search),
        "query_total_p50": ratio(first.queries.total, ours.queries.total),
        "query_total_p95": ratio(first.queries.total, ours.queries.total, 0.95),
        "seconds_per_batch_query": ratio(first.batches, ours.batches),
    }
    if ours.documents is not None and first.documents is not None:
        found["seconds_per_document"] = ratio(first.documents, ours.documents)
    return found


def size_gains(ours: Measured, first: Measured) -> dict[str, float]:
    """By cost, how many times smaller than the first system; costs that either lacks are left out."""
    our_sizes, first_sizes = _sizes(ours), _sizes(first)
    return {
        cost: first_value / our_value
        for cost, our_value in our_sizes.items()
        if our_value and (first_value := first_sizes[cost])
    }


def cost_of(throughput: Throughput | None, sizes: Sizes, data_set: str, threads: int, device: str) -> Cost | None:
    """What other numbers of passages would cost, in proportion.

    Args:
        throughput: of encoding; None where it was not measured.
        sizes: of the index on the largest data set.
        data_set: its name.
        threads: processors that encoded.
        device: the device of the encoder; `passages_per_cpu_hour` is for processors only.
    """
    if throughput is None:
        return None
    hourly = 3600 * throughput.documents_per_second / threads if device == "cpu" else None
    return Cost(
        passages_per_cpu_hour=hourly,
        index_gigabytes={
            str(count): IndexGigabytes(
                disk=count * sizes.disk_bytes_per_document / 1e9, memory=count * sizes.memory_bytes_per_document / 1e9
            )
            for count in COLLECTIONS
        },
        data_set=data_set,
    )


def _sizes(measured: Measured) -> Mapping[str, float | None]:
    encoder, sizes, memory = measured.encoder, measured.sizes, measured.memory
    return {
        "parameters": encoder.parameters,
        "transformer_parameters": encoder.transformer_parameters,
        "dims": encoder.dims,
        "model_bytes": encoder.model_bytes,
        "index_disk_bytes": sizes.index_disk_bytes,
        "index_memory_bytes": sizes.index_memory_bytes,
        "disk_bytes_per_document": sizes.disk_bytes_per_document,
        "memory_bytes_per_document": sizes.memory_bytes_per_document,
        "peak_memory": None if memory is None else memory.bytes,
    }
