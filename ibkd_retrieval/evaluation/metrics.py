"""A run and judgements into numbers, computed by ranx and equal to trec_eval's.

ranx's metric functions get plain arrays: documents as integer codes, in our order with strictly decreasing
scores, so that neither ranx's unstable sort nor its dictionaries take part. What is ours, because ranx and
trec_eval differ or ranx refuses:

- A judged query that the run lacks scores 0 and counts in the mean, as with `trec_eval -c`. So does a query
  whose judgements hold no relevant document.
- A relevance level changes what counts as relevant for the binary metrics. The gains of dcg and ndcg are the
  grades themselves, as in trec_eval, unless the metric's own name carries a level (`ndcg@10-l2`): then grades
  below it gain nothing, as in ranx. `ndcg` is Järvelin and Kekäläinen's (linear gain, log2 discount, the one
  trec_eval has), `ndcg_burges` has gain 2^grade - 1.
- Negative grades mean "not judged", as in trec_eval.
- Rank-biased precision is binary, as its authors define it (Moffat and Zobel 2008); ranx weights by grade.
- bpref of a query without a judged non-relevant document is the share of relevant documents found, as in
  trec_eval; ranx divides by zero.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metric_names import Metric, known_metrics, parse_metric
from ibkd_retrieval.search.runs import Run

__all__ = ["Evaluation", "Metric", "evaluate", "known_metrics", "parse_metric"]

_GRADED = frozenset({"dcg", "dcg_burges", "ndcg", "ndcg_burges"})
# trec_eval's ndcg reads any positive grade.
_GRADED_LEVEL = 1
# Codes no document has, different so that padding never matches padding.
_UNJUDGED, _NO_JUDGEMENT = -1.0, -2.0
_BLOCK_CELLS = 1 << 22
# numba's default threads may not be entered from two Python threads at once: the process would be ended.
_RANX_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a run scored.

    Attributes:
        scores: mean over all judged queries, by metric name as given.
        per_query: float64 [q] by metric name as given, aligned with `query_ids`.
        query_ids: the judged queries, in the order of the judgements.
        missing: judged queries with no document in the run; they score 0.
        extra: queries of the run without judgements; they are left out.
        without_relevant: judged queries without a document at `relevance_level`; they score 0 on binary metrics.
        relevance_level: lowest grade that counted as relevant where the metric's name did not say.
    """

    scores: Mapping[str, float]
    per_query: Mapping[str, NDArray[np.float64]]
    query_ids: tuple[str, ...]
    missing: int
    extra: int
    without_relevant: int
    relevance_level: int


def evaluate(run: Run, judgements: Iterable[Judgement], metrics: Sequence[str], relevance_level: int = 1) -> Evaluation:
    """Score a run against judgements.

    Args:
        run: ranked documents.
        judgements: grades; 0 is judged and not relevant, below 0 not judged.
        metrics: names that `parse_metric` understands.
        relevance_level: lowest grade that counts as relevant for binary metrics whose name carries no level.

    Raises:
        UserError: no metric or an unknown one, a level below 1, judgements that contradict each other or have no
            relevant document, or no query in common.
    """
    parsed = [parse_metric(name) for name in metrics]
    if not parsed:
        raise UserError(f"No metric was named: use one or more of {', '.join(known_metrics())}.")
    if relevance_level < 1:
        raise UserError(f"The relevance level must be at least 1, not {relevance_level}: grade 0 is not relevant.")
    grades = _grades(judgements)
    query_ids = tuple(grades)
    highest = max((grade for judged in grades.values() for grade in judged.values()), default=0)
    if highest < relevance_level:
        raise UserError(
            f"No judgement reaches the relevance level {relevance_level} (the highest of {len(query_ids)} queries is "
            f"{highest}), so every score would be 0: check the judgements or lower the level."
        )
    ranked = {query_id: doc_ids for query_id, doc_ids, _ in run if len(doc_ids)}
    if not ranked.keys() & grades.keys():
        raise UserError(
            f"The run ({_examples(run.query_ids)}) and the judgements ({_examples(query_ids)}) have no query in "
            "common: check that they belong to the same queries."
        )
    values = _per_query(query_ids, ranked, grades, parsed, relevance_level)
    return Evaluation(
        scores={name: float(np.mean(scores)) for name, scores in values.items()},
        per_query=values,
        query_ids=query_ids,
        missing=len(grades.keys() - ranked.keys()),
        extra=len(set(run.query_ids) - grades.keys()),
        without_relevant=sum(max(judged.values(), default=0) < relevance_level for judged in grades.values()),
        relevance_level=relevance_level,
    )


def _grades(judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in judgements:
        judged = grades.setdefault(query_id, {})
        if grade >= 0 and judged.setdefault(doc_id, grade) != grade:
            raise UserError(
                f"Document {doc_id} is judged {judged[doc_id]} and {grade} for query {query_id}: keep one judgement."
            )
    return grades


def _examples(query_ids: Sequence[str]) -> str:
    return f"queries {', '.join(query_ids[:3])}, ..." if query_ids else "no queries"


def _per_query(
    query_ids: Sequence[str],
    ranked: Mapping[str, NDArray[np.object_]],
    grades: Mapping[str, Mapping[str, int]],
    metrics: Sequence[Metric],
    relevance_level: int,
) -> dict[str, NDArray[np.float64]]:
    values = {metric.name: np.zeros(len(query_ids)) for metric in metrics}
    positions = [position for position, query_id in enumerate(query_ids) if query_id in ranked and grades[query_id]]
    depth = _depth(metrics)
    lists = [(position, ranked[query_ids[position]], grades[query_ids[position]]) for position in positions]
    for block in _blocks(lists, depth):
        for metric in metrics:
            values[metric.name][block.positions] = _compute(metric, block, relevance_level)
    return values


def _depth(metrics: Sequence[Metric]) -> int | None:
    """How many results per query any of the metrics looks at, None for all."""
    cutoffs = [metric.cutoff for metric in metrics]
    return None if None in cutoffs else max(cutoff for cutoff in cutoffs if cutoff is not None)


class _Block(NamedTuple):
    """Queries whose lists have one length, as ranx takes them.

    Attributes:
        positions: where each query's value belongs [b].
        run: codes and strictly decreasing scores, float64 [b, length, 2].
        judged: codes and grades, best grade first, padded with NaN grades, which no level counts;
            float64 [b, most judgements, 2].
    """

    positions: NDArray[np.int64]
    run: NDArray[np.float64]
    judged: NDArray[np.float64]


def _blocks(lists: list[tuple[int, NDArray[np.object_], Mapping[str, int]]], depth: int | None) -> Iterator[_Block]:
    """Code and group queries; one length per block, since precision without a cutoff divides by the length."""
    lists = sorted(lists, key=lambda item: (len(item[1][:depth]), len(item[2])))
    start = 0
    while start < len(lists):
        length = len(lists[start][1][:depth])
        stop, widest = start, 0
        while stop < len(lists) and len(lists[stop][1][:depth]) == length:
            widest = len(lists[stop][2])
            if stop > start and (stop + 1 - start) * (length + widest) > _BLOCK_CELLS:
                break
            stop += 1
        group = lists[start:stop]
        run = np.empty((len(group), length, 2))
        run[:, :, 1] = np.arange(length, 0, -1)
        judged = np.full((len(group), max(len(item[2]) for item in group), 2), np.nan)
        judged[:, :, 0] = _NO_JUDGEMENT
        for row, (_, doc_ids, grades) in enumerate(group):
            best_first = sorted(grades.items(), key=lambda item: -item[1])
            codes = {doc_id: float(code) for code, (doc_id, _) in enumerate(best_first)}
            run[row, :, 0] = [codes.get(doc_id, _UNJUDGED) for doc_id in doc_ids[:depth].tolist()]
            judged[row, : len(best_first), 0] = np.arange(len(best_first))
            judged[row, : len(best_first), 1] = [grade for _, grade in best_first]
        yield _Block(np.array([item[0] for item in group]), run, judged)
        start = stop


def _compute(metric: Metric, block: _Block, relevance_level: int) -> NDArray[np.float64]:
    run, judged = block.run, block.judged
    if metric.canonical in _GRADED:
        return _ranx(metric.canonical, judged, run, metric.cutoff or 0, metric.level or _GRADED_LEVEL)
    level = metric.level or relevance_level
    if metric.canonical == "rbp":
        binary = judged.copy()
        binary[:, :, 1] = judged[:, :, 1] >= level
        return _ranx("rbp", binary, run, metric.persistence, 1)
    if metric.canonical != "bpref":
        return _ranx(metric.canonical, judged, run, metric.cutoff or 0, level)
    relevant = (judged[:, :, 1] >= level).any(axis=1)
    opposed = relevant & (judged[:, :, 1] < level).any(axis=1)
    values = np.zeros(len(run))
    if opposed.any():
        values[opposed] = _ranx("bpref", judged[opposed], run[opposed], 0, level)
    if (alone := relevant & ~opposed).any():
        values[alone] = _ranx("recall", judged[alone], run[alone], 0, level)
    return values


def _ranx(
    canonical: str, judged: NDArray[np.float64], run: NDArray[np.float64], parameter: float | None, level: int
) -> NDArray[np.float64]:
    # Imported here: ranx takes two seconds, and the command line asks this module for names only.
    from ranx.metrics import metric_switch

    with _RANX_LOCK:
        return np.asarray(metric_switch(canonical)(judged, run, parameter, level), dtype=np.float64)
