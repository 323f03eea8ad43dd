"""Whole systems, an index with its encoder, measured side by side on the same queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.corpora.records import QuerySet
from ibkd_retrieval.encoders.names import short_model_name
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.comparison import Comparison, System, compare
from ibkd_retrieval.evaluation.efficiency import Efficiency, QueryPath, measure_latency, measure_throughput
from ibkd_retrieval.evaluation.environment import read_environment
from ibkd_retrieval.evaluation.metrics import evaluate
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.searcher import Searcher

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder


@dataclass(frozen=True)
class Measuring:
    """How much is measured.

    Attributes:
        k: results per query behind the metrics.
        latency_queries: different queries timed one by one.
        latency_rounds: how often.
        throughput_documents: stored documents encoded for the throughput.
        throughput_rounds: how often.
        seed: of orders, resampling and randomisation.
    """

    k: int = 1000
    latency_queries: int = 100
    latency_rounds: int = 2
    throughput_documents: int = 256
    throughput_rounds: int = 3
    seed: int = 0


def compare_systems(
    searchers: Mapping[str, Searcher],
    queries: QuerySet,
    metrics: Sequence[str],
    measuring: Measuring | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Search, score and time several systems on one query set; the first is what the others are held against.

    Args:
        searchers: by the name the report shows.
        queries: with judgements.
        metrics: names that `parse_metric` understands.
        measuring: how much to measure.
        progress: told of the work.

    Raises:
        UserError: no judgements, or what `evaluate` and `compare` refuse.
    """
    measuring = measuring or Measuring()
    if not queries.judgements:
        raise UserError(f"{queries.name} has no judgements: name queries that have, with --queries.")
    evaluations = {
        name: evaluate(
            searcher.search_batch(queries.queries, measuring.k, progress, tag=name),
            queries.judgements,
            metrics,
            queries.relevance_level,
        )
        for name, searcher in searchers.items()
    }
    timed = [query.text for query in queries.queries[: measuring.latency_queries]]
    with progress.task("timing queries", None, "systems") as task:
        latencies = measure_latency(
            {name: _query_path(searcher) for name, searcher in searchers.items()},
            timed,
            rounds=measuring.latency_rounds,
            seed=measuring.seed,
        )
        task.advance(len(searchers))
    # Systems that share an encoder share its throughput: timing it twice would only add noise.
    encoders = {searcher.encoder.weight_hash: searcher.encoder for searcher in searchers.values()}
    first = next(iter(searchers.values())).index
    step = max(1, len(first) // measuring.throughput_documents)
    documents = [
        first.document(row).content for row in islice(range(0, len(first), step), measuring.throughput_documents)
    ]
    with progress.task("timing encoders", None, "encoders") as task:
        rates = measure_throughput(
            {key: encoder.encode for key, encoder in encoders.items()},
            documents,
            rounds=measuring.throughput_rounds,
            seed=measuring.seed,
        )
        task.advance(len(encoders))
    systems = []
    for name, searcher in searchers.items():
        encoder: Encoder = searcher.encoder  # type: ignore[assignment]
        index = searcher.index
        efficiency = Efficiency(
            embedding_parameters=encoder.parameters["embedding"],
            transformer_parameters=encoder.parameters["transformer"],
            dims=encoder.dim,
            model_bytes=encoder.model_bytes,
            documents=len(index),
            index_disk_bytes=index.disk_bytes,
            index_memory_bytes=index.memory_bytes,
            latency=latencies[name],
            throughput=rates[encoder.weight_hash],
        )
        systems.append(System(name, evaluations[name], efficiency))
    return compare(systems, seed=measuring.seed, environment=read_environment())


def _query_path(searcher: Searcher) -> QueryPath:
    return QueryPath(
        encode=lambda text: searcher.encoder.encode([text], "query"),
        search=lambda vector: searcher.index.search(vector, 10, nprobe=searcher.nprobe, refine=searcher.refine),
    )


def system_names(folders: Sequence[Path], models: Sequence[str], families: Sequence[str]) -> list[str]:
    """Short names that tell systems apart: model and index type, the folder too where those are the same.

    Args:
        folders: of the indexes.
        models: names of their encoders.
        families: of the indexes.
    """
    names = [f"{short_model_name(model)} {family}" for model, family in zip(models, families, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})"
        for name, folder in zip(names, folders, strict=True)
    ]
