"""The answers of several indexes to one question: what one of them ranks higher, lower, or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.search.showing import moves, overlap

from .answers import Answer, hit_lines
from .console import stdout

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

NARROWEST = 100
"""Columns of a terminal from which on two answers stand side by side."""


def show_side_by_side(question: str, answers: Sequence[Answer]) -> None:
    """Print two answers in two columns where the terminal is wide enough, else all one under the other."""
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
    if other is first:
        return ["" for _ in other.hits]
    return [_mark(steps).ljust(4) for steps in moves(first.hits, other.hits)]


def as_json(answers: Sequence[Answer]) -> dict[str, Any]:
    """A list of answers, and the overlap of each with the first."""
    shown: dict[str, Any] = {"indexes": [{"index": str(found.asked.name), **found.as_json()} for found in answers]}
    for found, entry in zip(answers[1:], shown["indexes"][1:], strict=True):
        depth, shared = overlap(answers[0].hits, found.hits)
        entry[f"overlap@{depth}"] = round(shared, 4)
    return shown


def _mark(steps: int | None) -> str:
    if steps is None:
        return " +"
    return " =" if steps == 0 else f" {'▲' if steps > 0 else '▼'}{abs(steps)}"
