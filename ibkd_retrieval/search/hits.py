"""The results of one query: as a sequence, a table or JSON, and compared with those of another index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

from ibkd_retrieval.search.runs.run import Hit
from ibkd_retrieval.search.snippet import one_line, snippet

if TYPE_CHECKING:
    import pandas as pd

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
    """The overlap@k of two results, with its depth k of at most ten."""
    depth = max(1, min(OVERLAP, max(len(first), len(other))))
    ours, theirs = ({hit.doc_id for hit in hits[:depth]} for hits in (first, other))
    return depth, len(ours & theirs) / depth


def moves(first: Sequence[Hit], other: Sequence[Hit]) -> list[int | None]:
    """By how many ranks each hit of `other` stands higher than in `first`, below 0 for lower; None if not there."""
    ranks = {hit.doc_id: hit.rank for hit in first}
    return [ranks[hit.doc_id] - hit.rank if hit.doc_id in ranks else None for hit in other]


@dataclass(frozen=True, repr=False)
class Hits(Sequence[Hit]):
    """The best documents for one query, best first.

    Attributes:
        query: the query text, or "" for a vector.
        hits: the documents found, with their texts.
        name: name of the index.
        documents: number of documents in the index.
        milliseconds: total time, with encoding and reading of texts.
    """

    query: str
    hits: tuple[Hit, ...]
    name: str
    documents: int
    milliseconds: float

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[place]

    def summary(self) -> str:
        """How many documents of how many, and the time."""
        return f"{len(self.hits)} of {self.documents:,} documents in {self.milliseconds:.1f} ms"

    def to_json(self) -> dict[str, Any]:
        """The time and the hits, as JSON types."""
        return {"milliseconds": round(self.milliseconds, 2), "hits": [hit_as_json(hit) for hit in self.hits]}

    def to_pandas(self) -> pd.DataFrame:
        """A table with the columns rank, score, id, title and text, and one for each field of the documents."""
        import pandas as pd

        rows = [hit_as_json(hit) for hit in self.hits]
        columns = ["rank", "score", "id", "title", "text"]
        shown = [row | row.pop("fields", {}) for row in rows]
        return pd.DataFrame(shown, columns=list(dict.fromkeys([*columns, *(name for row in shown for name in row)])))

    def __repr__(self) -> str:
        lines = [f"<{self.summary()} for {one_line(self.query)!r}>"]
        for hit in self.hits:
            title, passage = _shown(hit, self.query, 100)
            lines.append(f"{hit.rank:>3}  {hit.score:.4f}  {one_line(hit.doc_id)}  {title}".rstrip())
            lines += [f"     {passage}"] if passage else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for hit in self.hits:
            cells = (str(hit.rank), f"{hit.score:.4f}", one_line(hit.doc_id), *_shown(hit, self.query, 200))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("rank", "score", "id", "title", "passage"))
        caption = escape(f"{one_line(self.query)} · {self.summary()}")
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def _shown(hit: Hit, query: str, width: int) -> tuple[str, str]:
    document = hit.document
    return ("", "") if document is None else (one_line(document.title), snippet(document, query, width).text)
