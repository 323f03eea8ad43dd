"""The rankings of all systems of a comparison on one data set, at the depth that each figure needs.

An approximate index searches further when more results are requested. So a metric at a cutoff is measured on a search
for exactly that many results. The top of a longer search would look better than it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT, OVERLAP_DEPTH, RBO_DEPTH, agreement_with, recall_against
from ibkd_retrieval.evaluation.compare.records import Example, RankedDocument
from ibkd_retrieval.evaluation.metric_names import parse_metric
from ibkd_retrieval.evaluation.metrics import Evaluation, evaluate_run
from ibkd_retrieval.progress import SILENT, Progress
from ibkd_retrieval.search.ranker import without_own
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.searcher import Searcher

DEPTHS = (OVERLAP_DEPTH, RBO_DEPTH)
"""Results a query that recall and agreement are taken from."""


@dataclass(frozen=True)
class ComparedData:
    """One corpus and its queries, with the systems that index it.

    Attributes:
        name: short name for the report.
        queries: the queries, with judgements if there are any.
        searchers: searchers by system name. The first is the reference.
    """

    name: str
    queries: QuerySet
    searchers: Mapping[str, Searcher]

    @property
    def used_queries(self) -> tuple[Query, ...]:
        """The judged queries, or all queries if none is judged."""
        if not self.queries.judgements:
            return self.queries.queries
        judged = {judgement.query_id for judgement in self.queries.judgements}
        return tuple(query for query in self.queries.queries if query.query_id in judged)


@dataclass(frozen=True)
class Ranking:
    """The rankings of one system.

    Attributes:
        vectors: query vectors [q, dim].
        runs: runs by number of results.
        evaluation: scores by all metrics.
        recall: recall by depth, against an exact search of the same vectors.
        exact: the exact run at the greatest depth of `DEPTHS`. None if the system itself is exact.
    """

    vectors: NDArray[np.float32]
    runs: Mapping[int, Run]
    evaluation: Evaluation
    recall: Mapping[int, float]
    exact: Run | None


def rank_all(
    data: ComparedData, metrics: Sequence[str], k: int = 1000, progress: Progress = SILENT
) -> dict[str, Ranking]:
    """Search and score with every system; queries are encoded once for systems that share an encoder.

    Args:
        data: the queries and the systems.
        metrics: names that `parse_metric` accepts, or `AGREEMENT`, which needs no judgements.
        k: results per query for metrics without a cutoff.
        progress: receives progress reports.

    Raises:
        UserError: no query is judged, or `evaluate_run` refuses the runs.
    """
    judged = tuple(metrics) != AGREEMENT
    if not data.used_queries or (judged and not data.queries.judgements):
        raise UserError(f"{data.queries.name} has no judgements: give others as `queries`, or judgements as `qrels`.")
    vectors: dict[str, NDArray[np.float32]] = {}
    exact: dict[tuple[str, str, str], Run] = {}
    found: dict[str, Ranking] = {}
    for name, searcher in data.searchers.items():
        encoder = searcher.encoder.weight_hash
        if encoder not in vectors:
            vectors[encoder] = searcher.encode(data.used_queries, progress)
        runs = _runs(
            searcher, data, vectors[encoder], {*DEPTHS, *(metric_depth(metric, k) for metric in metrics)}, name
        )
        recall = dict.fromkeys(DEPTHS, 1.0)
        nearest: Run | None = None
        if not searcher.index.manifest.search.is_exact:
            manifest = searcher.index.manifest
            key = (encoder, manifest.encoder.weight_hash, manifest.vector_format)
            if key not in exact:
                exact[key] = _exact_run(searcher, data, vectors[encoder])
            nearest = exact[key]
            recall = {depth: recall_against(runs[depth], nearest, depth) for depth in DEPTHS}
        if judged:
            evaluation = evaluate_runs(runs, data.queries, metrics, k, name)
        else:
            first = next((each.runs for each in found.values()), runs)
            evaluation = agreement_with(
                runs[OVERLAP_DEPTH], first[OVERLAP_DEPTH], runs[RBO_DEPTH], first[RBO_DEPTH], name
            )
        found[name] = Ranking(vectors[encoder], runs, evaluation, recall, nearest)
    return found


def metric_depth(metric: str, k: int) -> int:
    """How many results a metric is taken from: its cutoff, or `k` where it has none."""
    if metric in AGREEMENT:
        return DEPTHS[AGREEMENT.index(metric)]
    return parse_metric(metric).cutoff or k


def evaluate_runs(runs: Mapping[int, Run], queries: QuerySet, metrics: Sequence[str], k: int, name: str) -> Evaluation:
    """Score each metric on the run of its own depth.

    Args:
        runs: by depth.
        queries: with judgements.
        metrics: names, in the order that the result has.
        k: depth of metrics without a cutoff.
        name: what to call the runs where they are refused.

    Raises:
        UserError: what `evaluate` refuses.
    """
    by_depth: dict[int, list[str]] = {}
    for metric in metrics:
        by_depth.setdefault(metric_depth(metric, k), []).append(metric)
    parts = [
        evaluate_run(runs[depth], queries.judgements, names, queries.relevance_level, name)
        for depth, names in by_depth.items()
    ]
    scores = {metric: score for part in parts for metric, score in part.scores.items()}
    values = {metric: column for part in parts for metric, column in part.per_query.items()}
    return dataclasses.replace(
        parts[0],
        scores={metric: scores[metric] for metric in metrics},
        per_query={metric: values[metric] for metric in metrics},
    )


def run_of(searcher: Searcher, data: ComparedData, vectors: NDArray[np.float32], k: int, tag: str = "ibkd") -> Run:
    """The k best documents of each query asked; a query that is a document itself is no answer to itself."""
    ids = [query.query_id for query in data.used_queries]
    if not data.queries.queries_are_documents:
        return searcher.run(ids, vectors, k, tag=tag)
    return without_own(searcher.run(ids, vectors, k + 1, tag=tag), k)


def _runs(
    searcher: Searcher, data: ComparedData, vectors: NDArray[np.float32], depths: set[int], name: str
) -> dict[int, Run]:
    if searcher.index.manifest.search.is_exact:
        # The top of a longer exact ranking is the shorter one.
        return dict.fromkeys(depths, run_of(searcher, data, vectors, max(depths), name))
    return {depth: run_of(searcher, data, vectors, depth, name) for depth in sorted(depths)}


def _exact_run(searcher: Searcher, data: ComparedData, vectors: NDArray[np.float32]) -> Run:
    exact = Searcher(searcher.index.exactly(), searcher.encoder, other_encoder=True, allowed=searcher.allowed)
    return run_of(exact, data, vectors, max(DEPTHS), "exact")


EACH_WAY = 5
"""Queries shown that lost most, and as many that won most."""

SHOWN = 5
TEXT_LENGTH = 200


def shortened(text: str) -> str:
    """The beginning of a text, whole words where it has any, at most `TEXT_LENGTH` characters and a sign of the cut."""
    if len(text) <= TEXT_LENGTH:
        return text
    kept = text[: TEXT_LENGTH + 1]
    words = kept.rsplit(None, 1)[0] if any(map(str.isspace, kept)) else kept
    return f"{words[:TEXT_LENGTH].rstrip()}…"


def extreme_queries(differences: Sequence[float], most: int = EACH_WAY) -> list[int]:
    """Places of the largest losses, worst first, and then of the largest gains, best first; no difference is neither.

    Equal differences are taken in the order given.
    """
    order = np.argsort(np.asarray(differences, dtype=np.float64), kind="stable").tolist()
    losses = [place for place in order if differences[place] < 0][:most]
    best_first = sorted(order, key=lambda place: (-differences[place], place))
    return losses + [place for place in best_first if differences[place] > 0][:most]


def examples(data: ComparedData, rankings: Mapping[str, Ranking], metric: str) -> tuple[Example, ...]:
    """The extreme queries of each further system against the first, by `metric`."""
    first, *others = data.searchers
    grades = {(each.query_id, each.doc_id): each.relevance for each in data.queries.judgements}
    rows = {query.query_id: row for row, query in enumerate(data.used_queries)}
    baseline = rankings[first].evaluation
    shown: dict[tuple[str, str], tuple[RankedDocument, ...]] = {}

    def ranked(system: str, query_id: str) -> tuple[RankedDocument, ...]:
        if (system, query_id) not in shown:
            row = rows[query_id]
            found = data.searchers[system].hits(rankings[system].vectors[row : row + 1], OVERLAP_DEPTH)
            own = query_id if data.queries.queries_are_documents else None
            hits = [hit for hit in found if hit.doc_id != own][:SHOWN]
            shown[system, query_id] = tuple(
                RankedDocument(
                    id=hit.doc_id,
                    title=document.title if document else "",
                    text=shortened(document.text) if document else "",
                    score=hit.score,
                    relevance=grades.get((query_id, hit.doc_id)),
                )
                for hit in hits
                for document in [hit.document]
            )
        return shown[system, query_id]

    found = []
    for system in others:
        ours, theirs = rankings[system].evaluation.per_query[metric], baseline.per_query[metric]
        for place in extreme_queries((ours - theirs).tolist()):
            query_id = baseline.query_ids[place]
            if query_id not in rows:
                continue  # Judged, but not in the query set.
            found.append(
                Example(
                    system=system,
                    query_id=query_id,
                    query=data.used_queries[rows[query_id]].text,
                    metric=metric,
                    baseline_value=float(theirs[place]),
                    value=float(ours[place]),
                    rankings={name: ranked(name, query_id) for name in (first, system)},
                )
            )
    return tuple(found)
