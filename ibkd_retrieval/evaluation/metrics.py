"""The metrics of a run, computed by ranx and equal to trec_eval's.

ranx's metric functions get plain arrays, query by query: documents as integer codes, in our order with strictly
decreasing scores, so that neither ranx's unstable sort nor its dictionaries take part. What is ours, because ranx and
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

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metric_names import Metric, known_metrics, parse_metric
from ibkd_retrieval.search.runs.doc_ids import Ids
from ibkd_retrieval.search.runs.run_files import Run

QueryArray = NDArray[np.float64]
"""Documents of one query, best first: codes and grades (judgements) or codes and scores (run), float64 [n, 2]."""

# ranx has two functions for each metric. That for many queries is compiled for several threads, which triples the time
# of compiling (on first use; numba keeps the result on disk), and two Python threads may not enter it at once. So these
# are the functions for one query.
_FUNCTIONS: dict[str, tuple[str, str]] = {
    "hits": ("hits", "_hits"),
    "hit_rate": ("hit_rate", "_hit_rate"),
    "precision": ("precision", "_precision"),
    "recall": ("recall", "_recall"),
    "f1": ("f1", "_f1"),
    "r-precision": ("r_precision", "_r_precision"),
    "mrr": ("reciprocal_rank", "_reciprocal_rank"),
    "map": ("average_precision", "_average_precision"),
    "dcg": ("ndcg", "_dcg"),
    "dcg_burges": ("ndcg", "_dcg"),
    "ndcg": ("ndcg", "_ndcg"),
    "ndcg_burges": ("ndcg", "_ndcg"),
    "bpref": ("bpref", "_bpref"),
    "rbp": ("rank_biased_precision", "_rank_biased_precision"),
}
_LOADING = threading.Lock()


def ranx_metric(canonical: str) -> Callable[[QueryArray, QueryArray, float, int], float]:
    """The value of one query by ranx.

    Args:
        canonical: ranx's name of the metric, without cutoff.

    Returns:
        A function of the judgements, the run, the cutoff (0: none; for "rbp" the persistence) and the lowest grade
        that counts as relevant.
    """
    module, name = _FUNCTIONS[canonical]
    function = getattr(_load(module), name)
    if module == "ndcg":
        jarvelin = not canonical.endswith("_burges")
        return lambda judged, run, cutoff, level: float(function(judged, run, cutoff, level, jarvelin))
    if canonical in ("bpref", "r-precision"):
        return lambda judged, run, cutoff, level: float(function(judged, run, level))
    return lambda judged, run, parameter, level: float(function(judged, run, parameter, level))


def _load(module: str) -> ModuleType:
    """Import one module of ranx.metrics without what ranx's own `__init__` imports.

    That is plotting, data frames and fusion, which take seconds.
    """
    with _LOADING:
        if "ranx" in sys.modules or "ranx.metrics" in sys.modules:
            return importlib.import_module(f"ranx.metrics.{module}")
        spec = importlib.util.find_spec("ranx")
        if spec is None or spec.submodule_search_locations is None:
            return importlib.import_module(f"ranx.metrics.{module}")
        # A package without contents stands in for ranx while its metrics load; it is taken away at once, so that
        # whoever imports ranx afterwards gets the whole of it, with these same modules.
        package = ModuleType("ranx")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["ranx"] = package
        try:
            return importlib.import_module(f"ranx.metrics.{module}")
        finally:
            del sys.modules["ranx"]


__all__ = ["JUDGED_DEPTH", "Evaluation", "Metric", "evaluate_run", "known_metrics", "parse_metric"]

# trec_eval's ndcg reads any positive grade.
_GRADED_LEVEL = 1
# The code of every unjudged document; judged ones count from 0.
_UNJUDGED = -1.0
# So many judged documents are looked for one by one, each among all results at once; more in a dictionary.
_FEW_JUDGED = 8
JUDGED_DEPTH = 10
"""Results per query among which the judged ones are counted."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a run.

    Attributes:
        scores: mean over all judged queries, by metric name as given.
        per_query: float64 [q] by metric name as given, aligned with `query_ids`.
        query_ids: the judged queries, in the order of the judgements.
        missing: judged queries with no document in the run; they score 0.
        extra: queries of the run without judgements; they are left out.
        without_relevant: judged queries without a document at `relevance_level`; they score 0 on binary metrics.
        relevance_level: lowest grade that counted as relevant where the metric's name did not say.
        judged_share: of the first `JUDGED_DEPTH` documents of the queries in `query_ids`, the share that is judged.
            Metrics count an unjudged document as not relevant: where the share is low, they say little.
        answered: whether the run has a document for the query, bool [q], aligned with `query_ids`.
    """

    scores: Mapping[str, float]
    per_query: Mapping[str, NDArray[np.float64]]
    query_ids: tuple[str, ...]
    missing: int
    extra: int
    without_relevant: int
    relevance_level: int
    judged_share: float
    answered: NDArray[np.bool_]


def evaluate_run(
    run: Run,
    judgements: Iterable[Judgement],
    metrics: Sequence[str],
    relevance_level: int = 1,
    name: str = "The run",
) -> Evaluation:
    """Score a run against judgements.

    Args:
        run: ranked documents.
        judgements: grades; 0 is judged and not relevant, below 0 not judged.
        metrics: names that `parse_metric` understands.
        relevance_level: lowest grade that counts as relevant for binary metrics whose name carries no level.
        name: what to call the run where it is refused.

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
            f"{name} ({_examples(run.query_ids)}) and the judgements ({_examples(query_ids)}) have no query in "
            "common: check that they belong to the same queries."
        )
    values, judged_share = _per_query(query_ids, ranked, grades, parsed, relevance_level)
    return Evaluation(
        scores={name: float(np.mean(scores)) for name, scores in values.items()},
        per_query=values,
        query_ids=query_ids,
        missing=len(grades.keys() - ranked.keys()),
        extra=len(set(run.query_ids) - grades.keys()),
        without_relevant=sum(max(judged.values(), default=0) < relevance_level for judged in grades.values()),
        relevance_level=relevance_level,
        judged_share=judged_share,
        answered=np.array([query_id in ranked for query_id in query_ids]),
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
    ranked: Mapping[str, Ids],
    grades: Mapping[str, Mapping[str, int]],
    metrics: Sequence[Metric],
    relevance_level: int,
) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Values [q] by metric name, and the share of judged documents."""
    values = {metric.name: np.zeros(len(query_ids)) for metric in metrics}
    columns = [(values[metric.name], _scorer(metric, relevance_level)) for metric in metrics]
    depth = _depth(metrics)
    looked_at = found = 0
    for position, query_id in enumerate(query_ids):
        doc_ids, judged = ranked.get(query_id), grades[query_id]
        if doc_ids is None:
            continue
        run, judgements = _arrays(doc_ids if depth is None else doc_ids[: max(depth, JUDGED_DEPTH)], judged)
        looked_at += len(run[:JUDGED_DEPTH])
        found += int(np.count_nonzero(run[:JUDGED_DEPTH, 0] != _UNJUDGED))
        if judged:
            for column, score in columns:
                column[position] = score(judgements, run[:depth])
    return values, found / looked_at


def _depth(metrics: Sequence[Metric]) -> int | None:
    """The largest cutoff of the metrics, None where one of them has none."""
    cutoffs = [metric.cutoff for metric in metrics]
    return None if None in cutoffs else max(cutoff for cutoff in cutoffs if cutoff is not None)


def _arrays(doc_ids: Ids, grades: Mapping[str, int]) -> tuple[QueryArray, QueryArray]:
    """One query as ranx takes it: codes and strictly decreasing scores, codes and grades with the best grade first."""
    best_first = sorted(grades.items(), key=lambda item: -item[1])
    codes = {doc_id: float(code) for code, (doc_id, _) in enumerate(best_first)}
    run = np.empty((len(doc_ids), 2))
    run[:, 0] = _UNJUDGED
    run[:, 1] = np.arange(len(doc_ids), 0, -1)
    if len(codes) <= _FEW_JUDGED:
        for doc_id, code in codes.items():
            run[doc_ids == doc_id, 0] = code
    else:
        run[:, 0] = [codes.get(doc_id, _UNJUDGED) for doc_id in doc_ids.tolist()]
    judged = np.empty((len(best_first), 2))
    judged[:, 0] = np.arange(len(best_first))
    judged[:, 1] = [grade for _, grade in best_first]
    return run, judged


def _scorer(metric: Metric, relevance_level: int) -> Callable[[QueryArray, QueryArray], float]:
    """The metric of one query, a function of judgements and run."""
    ranx = ranx_metric(metric.canonical)
    if metric.is_graded:
        return lambda judged, run: ranx(judged, run, metric.cutoff or 0, metric.level or _GRADED_LEVEL)
    level = metric.level or relevance_level
    if metric.canonical == "rbp":
        return lambda judged, run: ranx(_binary(judged, level), run, metric.persistence or 0.0, 1)
    if metric.canonical != "bpref":
        return lambda judged, run: ranx(judged, run, metric.cutoff or 0, level)
    recall = ranx_metric("recall")

    def bpref(judged: QueryArray, run: QueryArray) -> float:
        relevant = judged[:, 1] >= level
        if not relevant.any():
            return 0.0
        return recall(judged, run, 0, level) if relevant.all() else ranx(judged, run, 0, level)

    return bpref


def _binary(judged: QueryArray, level: int) -> QueryArray:
    binary = judged.copy()
    binary[:, 1] = judged[:, 1] >= level
    return binary
