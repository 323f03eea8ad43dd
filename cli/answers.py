"""Answers to one question: as found, as lines on a terminal, as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import stdout

if TYPE_CHECKING:
    from rich.text import Text

    from ibkd_retrieval.search.ranker import Ranker
    from ibkd_retrieval.search.ranking import Hit


@dataclass(frozen=True)
class Asked:
    """An index that questions are put to.

    Attributes:
        name: of the index, as the user gave it.
        documents: how many it holds.
    """

    name: Path
    ranker: Ranker
    documents: int


@dataclass(frozen=True)
class Answer:
    """What one index answers to one question, and how long it took, encoding included."""

    asked: Asked
    hits: tuple[Hit, ...]
    milliseconds: float

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        from ibkd_retrieval.search.showing import hit_as_json

        return {"milliseconds": round(self.milliseconds, 2), "hits": [hit_as_json(hit) for hit in self.hits]}

    def summary(self) -> str:
        """How many documents of how many, and the time."""
        return f"{len(self.hits)} of {self.asked.documents:,} documents in {self.milliseconds:.1f} ms"


def answer(asked: Asked, question: str, k: int) -> Answer:
    """Ask one index."""
    began = time.perf_counter()
    hits = [hit.read() for hit in asked.ranker.search(question, k)]
    return Answer(asked, tuple(hits), 1000 * (time.perf_counter() - began))


def show_answer(question: str, found: Answer) -> None:
    """Print the hits of one index, each with its best passage."""
    console = stdout()
    for hit in found.hits:
        for line in hit_lines(hit, question, max(40, console.width - 1)):
            console.print(line, soft_wrap=True)
    console.print(found.summary(), style="dim")


def hit_lines(hit: Hit, question: str, width: int, mark: str = "") -> list[Text]:
    """A hit as a line with rank, score, id and title, and a line of at most `width` with its best passage."""
    from rich.text import Text

    from ibkd_retrieval.search.snippet import one_line, snippet

    head = Text(f"{hit.rank:>3}{mark}  {hit.score:.4f}  ")
    head.append(one_line(hit.doc_id), style="bold")
    document = hit.document
    if document is None:
        return [head]
    if document.title:
        head.append(f"  {one_line(document.title)}")
    passage = snippet(document, question, width - 5)
    shown = Text("     " + passage.text, style="dim")
    for start, end in passage.matches:
        shown.stylize("bold not dim", start + 5, end + 5)
    return [head, shown]
