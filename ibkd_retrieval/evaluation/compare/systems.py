"""Compare systems on data sets: rankings, scores, timings and tradeoff curves become a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT, OVERLAP_DEPTH, RBO_DEPTH, agreement, recall_against
from ibkd_retrieval.evaluation.compare.comparison import Statistics, compare_scores
from ibkd_retrieval.evaluation.compare.measuring import (
    DocumentTimes,
    Measured,
    Measuring,
    cost_of,
    encoder_figures,
    measure,
    size_gains,
    sizes_of,
    time_documents,
    timed_gains,
    watch_memory,
)
from ibkd_retrieval.evaluation.compare.rankings import (
    ComparedData,
    Ranking,
    evaluate_runs,
    examples,
    metric_depth,
    rank_all,
    run_of,
)
from ibkd_retrieval.evaluation.compare.records import JudgeFigures, Opinion, PeakMemory, PerQuery
from ibkd_retrieval.evaluation.compare.report import (
    ComparisonReport,
    DataSetReport,
    SystemRecord,
    SystemResult,
    TradeoffPoint,
)
from ibkd_retrieval.evaluation.compare.timing import (
    QueryPath,
    QueryTimings,
    batch_rate_of,
    histogram_edges,
    latency_of,
    throughput_of,
    time_queries,
)
from ibkd_retrieval.evaluation.judge import OPINION, Judge, judge_runs
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.rerank import StoredTexts
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.searcher import Searcher


def tradeoff_curves(
    data: ComparedData,
    rankings: Mapping[str, Ranking],
    metric: str,
    *,
    k: int,
    queries: int,
    rounds: int,
    seed: int,
    progress: Progress = SILENT,
) -> dict[str, tuple[TradeoffPoint, ...]]:
    """Recall, median search time and score of every approximate system, for growing search parameters.

    Settings and systems take turns while they are timed. Each system keeps its refinement setting.

    Args:
        data: the queries and the systems.
        rankings: by system.
        metric: for the score.
        k: its depth where it has no cutoff.
        queries: timed one by one, drawn at random.
        rounds: how often.
        seed: of the draw and the order.
        progress: receives progress reports.
    """
    nearest = {name: ranking.exact for name, ranking in rankings.items() if ranking.exact is not None}
    points = {
        (name, place): _with_params(searcher, replace(params, refine=searcher.search_params.refine))
        for name, searcher in data.searchers.items()
        if name in nearest
        for place, params in enumerate(searcher.index.search_params_grid())
    }
    if not points:
        return dict.fromkeys(data.searchers, ())
    count = len(data.used_queries)
    drawn = np.random.default_rng(seed).choice(count, min(queries, count), replace=False)
    steps = rounds * len(drawn) * len(points)
    with progress.task(f"Timing search parameters on {data.name}", steps, "timings") as task:
        timings = time_queries(
            {f"{place} {name}": _path(searcher, rankings[name]) for (name, place), searcher in points.items()},
            [str(row) for row in drawn],
            rounds=rounds,
            warmup=2,
            seed=seed,
            done=task.advance,
        )
    curves: dict[str, list[TradeoffPoint]] = {name: [] for name in data.searchers}
    with progress.task(f"Trying search parameters on {data.name}", len(points), "settings") as task:
        first = next(iter(rankings.values())).runs[OVERLAP_DEPTH]
        for (name, place), searcher in points.items():
            curves[name].append(
                _point(searcher, rankings[name], nearest[name], data, metric, k, timings[f"{place} {name}"], first)
            )
            task.advance()
    return {name: tuple(curve) for name, curve in curves.items()}


def _point(
    searcher: Searcher,
    ranking: Ranking,
    nearest: Run,
    data: ComparedData,
    metric: str,
    k: int,
    timings: QueryTimings,
    first: Run,
) -> TradeoffPoint:
    depths = {OVERLAP_DEPTH, metric_depth(metric, k)}
    runs = {depth: run_of(searcher, data, ranking.vectors, depth) for depth in depths}
    if metric == AGREEMENT[0]:
        score = recall_against(runs[OVERLAP_DEPTH], first, OVERLAP_DEPTH)
    else:
        score = evaluate_runs(runs, data.queries, [metric], k, "The run").scores[metric]
    return TradeoffPoint(
        nprobe=searcher.search_params.nprobe,
        ef_search=searcher.search_params.ef_search,
        recall_at_10=recall_against(runs[OVERLAP_DEPTH], nearest, OVERLAP_DEPTH),
        search_p50_ms=1000 * float(np.median(timings.search)),
        score=score,
    )


def _with_params(searcher: Searcher, search_params: SearchParams) -> Searcher:
    return Searcher(
        searcher.index,
        searcher.encoder,
        search_params=search_params,
        other_encoder=True,
        allowed=searcher.allowed,
    )


def _path(searcher: Searcher, ranking: Ranking) -> QueryPath:
    """Timed from the vector on: `encode` only looks the query's vector up."""
    return QueryPath(
        encode=lambda row: ranking.vectors[int(row) : int(row) + 1],
        search=lambda vector: searcher.index.search(vector, OVERLAP_DEPTH, searcher.search_params),
    )


__all__ = ["ComparedData", "Measuring", "compare_systems"]


def compare_systems(
    data_sets: Sequence[ComparedData],
    metrics: Sequence[str],
    measuring: Measuring | None = None,
    *,
    judge: Judge | None = None,
    command: str = "",
    progress: Progress = SILENT,
) -> ComparisonReport:
    """Search, score and time several systems on one data set or several; the first is what the others are held to.

    Args:
        data_sets: with the same systems in the same order.
        metrics: names that `parse_metric` understands; examples and curves are of the first. `AGREEMENT` compares
            without judgements, by how alike the systems' answers are to those of the first.
        measuring: how much to measure.
        judge: the model that grades the first ten results of every system, or None.
        command: for the report.
        progress: receives progress reports.

    Raises:
        UserError: no judgements, or what `evaluate_run` and `compare_scores` refuse.
        WorkFailed: the process that measures memory ended without its figures.
    """
    measuring = measuring or Measuring()
    _check(data_sets)
    rankings = {data.name: rank_all(data, metrics, measuring.k, progress) for data in data_sets}
    statistics = compare_scores(
        {name: {system: each.evaluation for system, each in found.items()} for name, found in rankings.items()},
        measuring.resampling,
    )
    opinions = None if judge is None else _opinions(judge, data_sets, rankings, measuring, progress)
    largest = max(data_sets, key=lambda data: len(next(iter(data.searchers.values())).index))
    documents = time_documents(data_sets[0], measuring, progress)
    memory = watch_memory(largest, measuring, progress)
    reports = []
    for data in data_sets:
        measured = measure(data, measuring, documents, memory, progress)
        found = _data_set(data, rankings[data.name], statistics, measured, metrics, measuring, progress)
        reports.append(found if opinions is None else _with_opinions(found, opinions))
    # Read last: what was loaded on the way decides threads and accelerators.
    environment = read_environment()
    return ComparisonReport(
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        command=command,
        seed=measuring.seed,
        confidence=measuring.resampling.confidence,
        bootstrap_samples=measuring.resampling.samples,
        environment=environment,
        baseline=next(iter(data_sets[0].searchers)),
        metrics=tuple(metrics),
        systems=tuple(
            _system(name, searcher, largest, documents, memory, environment.threads)
            for name, searcher in data_sets[0].searchers.items()
        ),
        data_sets=tuple(reports),
        averages=statistics.averages,
        k=measuring.k,
        judge=None
        if judge is None or opinions is None
        else JudgeFigures(judge.name, judge.kind, {name: found[OPINION] for name, found in opinions.averages.items()}),
    )


def _opinions(
    judge: Judge,
    data_sets: Sequence[ComparedData],
    rankings: Mapping[str, Mapping[str, Ranking]],
    measuring: Measuring,
    progress: Progress,
) -> Statistics:
    """The figures of a judge, with the same statistics as those of judgements."""
    evaluations = {}
    for data in data_sets:
        runs = {name: ranking.runs[OVERLAP_DEPTH] for name, ranking in rankings[data.name].items()}
        found = {doc_id for run in runs.values() for doc_id in run.doc_ids.tolist()}
        first = next(iter(data.searchers.values())).index  # All indexes are of one corpus.
        texts = StoredTexts([first], found)
        queries = {query.query_id: query.text for query in data.used_queries}
        evaluations[data.name] = judge_runs(judge, queries, runs, texts.content, progress)
    return compare_scores(evaluations, measuring.resampling)


def _with_opinions(report: DataSetReport, opinions: Statistics) -> DataSetReport:
    scores, contrasts = opinions.scores[report.name], opinions.contrasts[report.name]
    return replace(
        report,
        systems={
            name: replace(result, opinion=Opinion(scores[name][OPINION], contrasts[name].get(OPINION)))
            for name, result in report.systems.items()
        },
    )


def _check(data_sets: Sequence[ComparedData]) -> None:
    if not data_sets or not data_sets[0].searchers:
        raise UserError("There is nothing to compare: name at least one system.")
    names = [data.name for data in data_sets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"Two data sets are called {repeated}: give each its own name.")
    systems = list(data_sets[0].searchers)
    for data in data_sets[1:]:
        if list(data.searchers) != systems:
            raise UserError(
                f"The systems on {data.name} are {', '.join(data.searchers)}, and on {data_sets[0].name} "
                f"{', '.join(systems)}: name an index of every system for every corpus."
            )


def _system(
    name: str,
    searcher: Searcher,
    largest: ComparedData,
    documents: DocumentTimes,
    memory: Mapping[str, PeakMemory],
    threads: int,
) -> SystemRecord:
    seconds = documents.of(searcher)
    throughput = None if seconds is None else throughput_of(seconds, documents.documents)
    return SystemRecord(
        name=name,
        encoder=encoder_figures(searcher),
        family=searcher.index.manifest.family,
        settings=searcher.search_params,
        throughput=throughput,
        peak_memory=memory.get(name),
        cost=cost_of(
            throughput,
            sizes_of(largest.searchers[name].index),
            largest.name,
            threads,
            searcher.encoder.device,
        ),
    )


def _data_set(
    data: ComparedData,
    rankings: Mapping[str, Ranking],
    statistics: Statistics,
    measured: Mapping[str, Measured],
    metrics: Sequence[str],
    measuring: Measuring,
    progress: Progress,
) -> DataSetReport:
    curves = tradeoff_curves(
        data,
        rankings,
        metrics[0],
        k=measuring.k,
        queries=measuring.curve_queries,
        rounds=measuring.rounds,
        seed=measuring.seed,
        progress=progress,
    )
    edges = histogram_edges([each.queries for each in measured.values()])
    first = next(iter(data.searchers))
    results = {}
    for name, searcher in data.searchers.items():
        ranking, theirs, costs = rankings[name], rankings[first], measured[name]
        faster = timed_gains(costs, measured[first])
        results[name] = SystemResult(
            index=searcher.index.folder.resolve().name,
            factory=searcher.index.manifest.factory,
            search=searcher.index.search_params(OVERLAP_DEPTH, searcher.search_params),
            missing_queries=ranking.evaluation.missing,
            scores=statistics.scores[data.name][name],
            contrasts=statistics.contrasts[data.name][name],
            recall_against_exact={str(depth): share for depth, share in ranking.recall.items()},
            agreement=agreement(
                ranking.runs[OVERLAP_DEPTH], theirs.runs[OVERLAP_DEPTH], ranking.runs[RBO_DEPTH], theirs.runs[RBO_DEPTH]
            ),
            latency_ms=latency_of(costs.queries, edges),
            batch_queries_per_second=batch_rate_of(costs.batches, measuring.batch),
            sizes=costs.sizes,
            gains=size_gains(costs, measured[first]) | {cost: each.median for cost, each in faster.items()},
            gain_spread={cost: each.spread for cost, each in faster.items()},
            tradeoff_curve=curves[name],
        )
    evaluations = {name: ranking.evaluation for name, ranking in rankings.items()}
    index = data.searchers[first].index
    return DataSetReport(
        name=data.name,
        corpus=index.manifest.corpus.name,
        fingerprint=index.manifest.corpus.fingerprint,
        documents=len(index),
        queries=len(evaluations[first].query_ids),
        query_source=data.queries.name,
        systems=results,
        per_query=PerQuery(
            evaluations[first].query_ids,
            {
                name: {metric: tuple(column.tolist()) for metric, column in each.per_query.items()}
                for name, each in evaluations.items()
            },
        ),
        examples=examples(data, rankings, metrics[0]),
        relevance_level=data.queries.relevance_level,
    )
