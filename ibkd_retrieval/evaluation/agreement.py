"""Agreement between two rankings of the same documents: overlap@k and rank-biased overlap.

Rankings are total orders: a run breaks ties as trec_eval does, so documents of equal score stand in the same order in
both rankings and cannot make them disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.records import Agreement
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.search.runs import Run

OVERLAP_DEPTH = 10
RBO_DEPTH = 100
"""Depth of rank-biased overlap; with persistence 0.9 all beyond it weighs 0.00003."""

PERSISTENCE = 0.9

AGREEMENT = (f"overlap@{OVERLAP_DEPTH}", "rbo")
"""What stands in the place of metrics where nobody judged: how alike rankings are to another system's."""


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], persistence: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two rankings, 0 (nothing in common) to 1 (identical).

    With S the shorter ranking (s documents), L the longer one (l) and X_d the number of documents that the first d of
    both have in common (for d > s: all of S), and p the persistence::

        RBO = (1 - p)/p [ sum_{d=1..l} X_d/d p^d + sum_{d=s+1..l} X_s (d - s)/(s d) p^d ]
              + [ (X_l - X_s)/l + X_s/s ] p^l

    Webber, Moffat, Zobel: A similarity measure for indefinite rankings, ACM TOIS 28(4), 2010, equation 32. Two empty
    rankings agree (1), an empty one and another do not (0).

    Args:
        first: different ids, best first.
        second: likewise.
        persistence: probability of looking at the next rank, between 0 and 1.

    Raises:
        UserError: the persistence is not between 0 and 1.
    """
    if not 0 < persistence < 1:
        raise UserError(
            f"The persistence of rank-biased overlap lies between 0 and 1, not {persistence}: 0.9 is usual."
        )
    short, long = sorted((first, second), key=len)
    if not short:
        return float(not long)
    ranks = {doc_id: rank for rank, doc_id in enumerate(short, 1)}
    # Where a document of both joins the common ones: at the deeper of its two ranks.
    joins = [max(rank, ranks[doc_id]) for rank, doc_id in enumerate(long, 1) if doc_id in ranks]
    depth = np.arange(1, len(long) + 1)
    common = np.cumsum(np.bincount(joins, minlength=len(long) + 1)[1:])
    weights = persistence**depth
    s, at_short, at_long = len(short), common[len(short) - 1], common[-1]
    beyond = depth > s
    summed = float((common / depth * weights).sum())
    summed += float((at_short * (depth[beyond] - s) / (s * depth[beyond]) * weights[beyond]).sum())
    tail = float((at_long - at_short) / len(long) + at_short / s) * float(weights[-1])
    # Rounding may carry identical rankings beyond 1.
    return min(1.0, (1 - persistence) / persistence * summed + tail)


def overlap(first: Sequence[str], second: Sequence[str], depth: int = OVERLAP_DEPTH) -> float:
    """Share of the first `depth` documents that both rankings have, of as many as the longer one gives.

    Two empty rankings agree (1).
    """
    ours, theirs = set(first[:depth]), set(second[:depth])
    longest = max(len(ours), len(theirs))
    return len(ours & theirs) / longest if longest else 1.0


def agreement(run: Run, baseline: Run, deep: Run, deep_baseline: Run) -> Agreement:
    """Mean agreement of two systems over the same queries; the arguments are those of `agreement_with`."""
    _check_same_queries(run, baseline)
    _check_same_queries(deep, deep_baseline)
    found = agreement_with(run, baseline, deep, deep_baseline).scores
    return Agreement(found[AGREEMENT[0]], found[AGREEMENT[1]])


def agreement_with(run: Run, baseline: Run, deep: Run, deep_baseline: Run, name: str = "The run") -> Evaluation:
    """The agreement of two systems for each query. It replaces metrics if there are no judgements.

    Args:
        run: at least the first ten documents of each query.
        baseline: the same of the other system. Its queries count. A query that the run lacks has agreement 0.
        deep: at least the first `RBO_DEPTH` documents of each query.
        deep_baseline: the same of the other system.
        name: name of the run in error messages.

    Raises:
        UserError: they have no query in common.
    """
    query_ids = baseline.query_ids
    found = set(run.query_ids)
    if not found & set(query_ids):
        raise UserError(f"{name} and its baseline have no query in common: check that they belong to the same queries.")
    answered = np.array([bool(ours) for ours, _ in _pairs(run, baseline, 1)])
    per_query = {
        AGREEMENT[0]: np.array([overlap(*pair) for pair in _pairs(run, baseline, OVERLAP_DEPTH)]),
        AGREEMENT[1]: np.array([rank_biased_overlap(*pair) for pair in _pairs(deep, deep_baseline, RBO_DEPTH)]),
    }
    return Evaluation(
        scores={metric: float(np.mean(values)) for metric, values in per_query.items()},
        per_query=per_query,
        query_ids=query_ids,
        missing=int((~answered).sum()),
        extra=len(found - set(query_ids)),
        without_relevant=0,
        relevance_level=1,
        judged_share=0.0,
        answered=answered,
    )


def recall_against(run: Run, exact: Run, depth: int) -> float:
    """Recall against exact search: the mean share of its first `depth` documents among the first `depth` of a run.

    Args:
        run: `depth` documents or more of each query.
        exact: likewise, the same queries in the same order; with fewer documents in all, those there are.
        depth: how many documents of each ranking count.
    """
    _check_same_queries(run, exact)
    shares = [len(set(ours) & set(theirs)) / max(1, len(theirs)) for ours, theirs in _pairs(run, exact, depth)]
    return float(np.mean(shares))


def _pairs(run: Run, baseline: Run, depth: int) -> list[tuple[list[str], list[str]]]:
    """The first documents of both for each query of the baseline."""
    found = {query_id: doc_ids[:depth].tolist() for query_id, doc_ids, _ in run}
    return [(found.get(query_id, []), doc_ids[:depth].tolist()) for query_id, doc_ids, _ in baseline]


def _check_same_queries(run: Run, other: Run) -> None:
    if run.query_ids != other.query_ids:
        raise ValueError("the runs are of different queries")
