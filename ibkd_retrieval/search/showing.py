"""What is shown of answers: a hit as JSON, and how the answers of two rankers to one question differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ibkd_retrieval.search.ranking import Hit

OVERLAP = 10
"""Results that are compared."""


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """A hit as JSON types; title and text are empty where the index stores none, fields are left out."""
    document = hit.document
    shown = {
        "rank": hit.rank,
        "score": hit.score,
        "id": hit.doc_id,
        "title": document.title if document else "",
        "text": document.text if document else "",
    }
    return shown | {"fields": dict(document.fields)} if document and document.fields else shown


def overlap(first: Sequence[Hit], other: Sequence[Hit]) -> tuple[int, float]:
    """The depth compared, ten or fewer, and the share of documents that both have among their first so many."""
    depth = max(1, min(OVERLAP, max(len(first), len(other))))
    ours, theirs = ({hit.doc_id for hit in hits[:depth]} for hits in (first, other))
    return depth, len(ours & theirs) / depth


def moves(first: Sequence[Hit], other: Sequence[Hit]) -> list[int | None]:
    """By how many ranks each hit of `other` stands higher than in `first`, below 0 for lower; None if not there."""
    ranks = {hit.doc_id: hit.rank for hit in first}
    return [ranks[hit.doc_id] - hit.rank if hit.doc_id in ranks else None for hit in other]
