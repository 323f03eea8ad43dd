"""Answers to one question, as lines on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .console import stdout

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from ibkd_retrieval.search.hits import Hits
    from ibkd_retrieval.search.runs import Hit


def show_answers(answers: Sequence[Hits], json: bool = False) -> None:
    """Print the answers of one index, or of several side by side."""
    if json:
        from json import dumps

        shown = answers[0].to_json() if len(answers) == 1 else as_json(answers)
        print(dumps({"query": answers[0].query} | shown, ensure_ascii=False))  # noqa: T201
    elif len(answers) > 1:
        show_side_by_side(answers)
    else:
        (found,) = answers
        console = stdout()
        for hit in found:
            for line in hit_lines(hit, found.query, max(40, console.width - 1)):
                console.print(line, soft_wrap=True)
        console.print(found.summary(), style="dim")


def hit_lines(hit: Hit, question: str, width: int, mark: str = "") -> list[Text]:
    """A hit as a line with rank, score, id and title, and a line of at most `width` with its best passage."""
    from rich.text import Text

    from ibkd_retrieval.search.hits import one_line, snippet

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


def show_side_by_side(answers: Sequence[Hits]) -> None:
    """Print two answers in two columns where the terminal is wide enough, else all one under the other."""
    from ibkd_retrieval.search.hits import overlap

    console = stdout()
    if len(answers) == 2 and console.is_terminal and console.width >= NARROWEST:
        console.print(in_columns(answers, console.width))
    else:
        width = max(40, console.width - 1)
        for found in answers:
            console.print(f"{found.name}: {found.summary()}", style="bold", soft_wrap=True)
            for hit, mark in zip(found.hits, marks(answers[0], found), strict=True):
                for line in hit_lines(hit, found.query, width, mark):
                    console.print(line, soft_wrap=True)
    for found in answers[1:]:
        depth, shared = overlap(answers[0].hits, found.hits)
        told = f"overlap@{depth} of {answers[0].name} and {found.name}: {shared:.2f}"
        console.print(told, style="dim", soft_wrap=True)


def in_columns(answers: Sequence[Hits], width: int) -> Table:
    """A table of two columns, a hit of each in every row."""
    from itertools import zip_longest

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    gap = 2
    column = (width - gap) // 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for found in answers:
        heading = Text(f"{found.name}\n{found.summary()}")
        table.add_column(heading, width=column, no_wrap=True, overflow="ellipsis")

    def cell(found: Hits, place: int) -> RenderableType:
        mark = marks(answers[0], found)[place]
        return Group(*hit_lines(found.hits[place], found.query, column, mark))

    for places in zip_longest(*(range(len(found.hits)) for found in answers)):
        table.add_row(*("" if i is None else cell(found, i) for found, i in zip(answers, places, strict=True)))
    return table


def marks(first: Hits, other: Hits) -> list[str]:
    """How each hit of `other` moved against `first`: ▲ ranks up, ▼ down, = the same, + not found there."""
    from ibkd_retrieval.search.hits import moves

    if other is first:
        return ["" for _ in other.hits]
    return [_mark(steps).ljust(4) for steps in moves(first.hits, other.hits)]


def as_json(answers: Sequence[Hits]) -> dict[str, Any]:
    """A list of answers, and the overlap of each with the first."""
    from ibkd_retrieval.search.hits import overlap

    shown: dict[str, Any] = {"indexes": [{"index": str(found.name), **found.to_json()} for found in answers]}
    for found, entry in zip(answers[1:], shown["indexes"][1:], strict=True):
        depth, shared = overlap(answers[0].hits, found.hits)
        entry[f"overlap@{depth}"] = round(shared, 4)
    return shown


def _mark(steps: int | None) -> str:
    if steps is None:
        return " +"
    return " =" if steps == 0 else f" {'▲' if steps > 0 else '▼'}{abs(steps)}"
