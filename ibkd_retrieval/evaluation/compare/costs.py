"""What a system costs: figures that follow from what was measured, and how they compare with the first system's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ibkd_retrieval.evaluation.compare.cost_records import (
    Cost,
    EncoderFigures,
    IndexGigabytes,
    PeakMemory,
    Sizes,
    Throughput,
)
from ibkd_retrieval.evaluation.compare.timing import QueryTimings, Ratio, Seconds, ratio
from ibkd_retrieval.indexing.index import StoredIndex

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
        device: where it was encoded; hours of a processor are told of processors only.
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
