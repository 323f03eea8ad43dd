"""Recall against search time of approximate indexes, over their search parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ibkd_retrieval.evaluation.agreement import AGREEMENT, OVERLAP_DEPTH, recall_against
from ibkd_retrieval.evaluation.compare.rankings import ComparedData, Ranking, evaluate_runs, metric_depth, run_of
from ibkd_retrieval.evaluation.compare.report import TradeoffPoint
from ibkd_retrieval.evaluation.compare.timing import QueryPath, QueryTimings, time_queries
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.progress import SILENT, Progress
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
    timings = time_queries(
        {f"{place} {name}": _path(searcher, rankings[name]) for (name, place), searcher in points.items()},
        [str(row) for row in drawn],
        rounds=rounds,
        warmup=2,
        seed=seed,
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
