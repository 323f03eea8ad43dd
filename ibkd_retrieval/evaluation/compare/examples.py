"""The queries that a system lost and won most on, with both rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ibkd_retrieval.evaluation.agreement import OVERLAP_DEPTH
from ibkd_retrieval.evaluation.compare.quality_records import Example, RankedDocument
from ibkd_retrieval.evaluation.compare.rankings import ComparedData, Ranking

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
    rows = {query.query_id: row for row, query in enumerate(data.asked)}
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
                continue  # Judged, and asked of nobody.
            found.append(
                Example(
                    system=system,
                    query_id=query_id,
                    query=data.asked[rows[query_id]].text,
                    metric=metric,
                    baseline_value=float(theirs[place]),
                    value=float(ours[place]),
                    rankings={name: ranked(name, query_id) for name in (first, system)},
                )
            )
    return tuple(found)
