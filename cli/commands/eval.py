"""`ibkd eval`: an index, runs or a suite of data sets, against judgements."""

from __future__ import annotations

from typing import Any

from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.search.options import RankerOptions

from ..options.common import Output, QueryFields, judgements
from ..options.declare import Given, grouped
from ..options.eval import EvalOptions, Ranking, chosen_task, form_of


@grouped
def evaluate(asked: EvalOptions, ranking: Ranking, fields: QueryFields, shown: Output, given: Given) -> None:
    """Score an index, run files, or a suite of data sets.

    Scores have confidence intervals, and differences from a baseline are tested. Without judgements, a run is compared
    with one --baseline by how alike their answers are.
    """
    task = chosen_task(asked, given)
    form = form_of(asked, shown.json)
    from ibkd_retrieval.evaluation.evaluate import check_per_query_name, write_per_query
    from ibkd_retrieval.evaluation.metric_names import parse_metric
    from ibkd_retrieval.files import require_writable

    from ..display.scores import show_scores, show_sts, show_suite

    if asked.per_query is not None:
        check_per_query_name(asked.per_query)
    for file in (asked.per_query, asked.output if task != "suite" else None):
        if file is not None:
            require_writable(file)
    for name in asked.metrics:
        parse_metric(name)
    if task == "sts":
        show_sts(_sts(asked, ranking, shown), form, asked.output)
        return
    if task == "suite":
        result = _suite(asked, ranking, shown)
        show_suite(result, form)
        shown.say_where_time_went()
        if result.failures:
            told = " ".join(f"{name}: {why}" for name, why in result.failures.items())
            raise WorkFailed(f"{len(result.failures)} of {len(result.groups)} data sets are not scored. {told}")
        return
    scores = _scored(asked, ranking, fields, shown)
    if asked.per_query is not None:
        write_per_query(scores, asked.per_query)
    show_scores(scores, form, asked.output)
    shown.say_where_time_went()


def _sts(asked: EvalOptions, ranking: RankerOptions, shown: Output) -> Any:
    from ibkd_retrieval.evaluation.sts import evaluate_sts

    computing: Any = {name: getattr(ranking, name) for name in ("device", "dtype", "backend", "pooling")}
    drawn: Any = {"resamples": asked.resamples, "seed": asked.seed}
    return evaluate_sts(ranking.model, asked.data, **computing, **drawn, progress=shown.progress)


def _suite(asked: EvalOptions, ranking: RankerOptions, shown: Output) -> Any:
    from ibkd_retrieval.evaluation.suite import evaluate_suite

    chosen = ("data_dir", "metrics", "type", "output", "k", "relevance_level", "workers", "worker_cpus")
    settings: Any = {name: getattr(asked, name) for name in chosen}
    return evaluate_suite(asked.suite or "", ranking, **settings, progress=shown.progress)


def _scored(asked: EvalOptions, ranking: RankerOptions, fields: QueryFields, shown: Output) -> Any:
    from ibkd_retrieval.evaluation.evaluate import USUAL_METRICS, evaluate, usual_metrics
    from ibkd_retrieval.evaluation.evaluate_index import evaluate_index

    progress = shown.progress
    drawn: Any = {name: getattr(asked, name) for name in ("relevance_level", "resamples", "seed")}
    shared: Any = {**drawn, "baseline": list(asked.baseline), "progress": progress}
    qrels = judgements([asked.qrels] if asked.qrels else [], asked.qrels_threshold, progress)
    judged = qrels[0] if qrels else None
    if asked.run:
        against = judged or asked.queries
        usual = usual_metrics(asked.queries or asked.qrels or "") if against else USUAL_METRICS
        return evaluate(list(asked.run), against, asked.metrics or usual, queries=asked.queries, **shared)
    fields.refuse_without_queries(asked.queries)
    queries = fields.queries(asked.queries, progress) if asked.queries else None
    return evaluate_index(asked.index, ranking, queries, qrels=judged, metrics=asked.metrics, k=asked.k, **shared)
