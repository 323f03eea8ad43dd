"""Answers to one question: as found, as lines on a terminal, as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import stdout

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from ibkd_retrieval.search.ranker import Ranker
    from ibkd_retrieval.search.runs.run import Hit


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
        from ibkd_retrieval.search.snippet import hit_as_json

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


NARROWEST = 100
"""Columns of a terminal from which on two answers stand side by side."""


def show_side_by_side(question: str, answers: Sequence[Answer]) -> None:
    """Print two answers in two columns where the terminal is wide enough, else all one under the other."""
    from ibkd_retrieval.search.snippet import overlap

    console = stdout()
    if len(answers) == 2 and console.is_terminal and console.width >= NARROWEST:
        console.print(in_columns(question, answers, console.width))
    else:
        width = max(40, console.width - 1)
        for found in answers:
            console.print(f"{found.asked.name}: {found.summary()}", style="bold", soft_wrap=True)
            for hit, mark in zip(found.hits, marks(answers[0], found), strict=True):
                for line in hit_lines(hit, question, width, mark):
                    console.print(line, soft_wrap=True)
    for found in answers[1:]:
        depth, shared = overlap(answers[0].hits, found.hits)
        told = f"overlap@{depth} of {answers[0].asked.name} and {found.asked.name}: {shared:.2f}"
        console.print(told, style="dim", soft_wrap=True)


def in_columns(question: str, answers: Sequence[Answer], width: int) -> Table:
    """A table of two columns, a hit of each in every row."""
    from itertools import zip_longest

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    gap = 2
    column = (width - gap) // 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for found in answers:
        heading = Text(f"{found.asked.name}\n{found.summary()}")
        table.add_column(heading, width=column, no_wrap=True, overflow="ellipsis")

    def cell(found: Answer, place: int) -> RenderableType:
        mark = marks(answers[0], found)[place]
        return Group(*hit_lines(found.hits[place], question, column, mark))

    for places in zip_longest(*(range(len(found.hits)) for found in answers)):
        table.add_row(*("" if i is None else cell(found, i) for found, i in zip(answers, places, strict=True)))
    return table


def marks(first: Answer, other: Answer) -> list[str]:
    """How each hit of `other` moved against `first`: ▲ ranks up, ▼ down, = the same, + not found there."""
    from ibkd_retrieval.search.snippet import moves

    if other is first:
        return ["" for _ in other.hits]
    return [_mark(steps).ljust(4) for steps in moves(first.hits, other.hits)]


def as_json(answers: Sequence[Answer]) -> dict[str, Any]:
    """A list of answers, and the overlap of each with the first."""
    from ibkd_retrieval.search.snippet import overlap

    shown: dict[str, Any] = {"indexes": [{"index": str(found.asked.name), **found.as_json()} for found in answers]}
    for found, entry in zip(answers[1:], shown["indexes"][1:], strict=True):
        depth, shared = overlap(answers[0].hits, found.hits)
        entry[f"overlap@{depth}"] = round(shared, 4)
    return shown


def _mark(steps: int | None) -> str:
    if steps is None:
        return " +"
    return " =" if steps == 0 else f" {'▲' if steps > 0 else '▼'}{abs(steps)}"
