"""A comparison on the terminal: the summary sentence, quality and cost of each system, and the quality bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .console import stdout
from .wording import in_options

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport
    from ibkd_retrieval.evaluation.report.glance import Glance

WIDE = 120
"""Columns of a terminal from which on everything is shown; 80 do for what matters."""

_UNLIMITED = 1000
_BAR, _BAR_WIDE = 7, 14
_NAME, _DATA_SET = 14, 13
"""Columns of a terminal that a system's name takes at least, and that the figure of a data set takes."""


class _Column(NamedTuple):
    heading: str
    justify: str = "right"
    only_wide: bool = False


def print_comparison(comparison: ComparisonReport) -> None:
    """Show a comparison on standard output, cut to the terminal's width; in a pipe or a file, as wide as it is."""
    console = stdout()
    if not console.is_terminal:
        console.width = _UNLIMITED
    draw_comparison(console, comparison)


def draw_comparison(console: Console, comparison: ComparisonReport) -> None:
    """Show a comparison on a console, in 80 columns or more."""
    from ibkd_retrieval.evaluation.report import summary_sentence
    from ibkd_retrieval.evaluation.report.glance import glances

    found = glances(comparison)
    wide = console.width >= WIDE
    console.print(_plain(summary_sentence(comparison)), style="bold")
    console.print()
    for metrics in _that_fit(comparison.metrics, console.width, wide):
        console.print(_quality(comparison, metrics, found, wide))
        console.print()
    if comparison.judge is not None:
        console.print(_opinion(comparison))
        console.print()
    console.print(_cost(found, wide))
    if len(comparison.data_sets) > 1:
        per_table = max(1, (console.width - _NAME - 8) // _DATA_SET)
        for start in range(0, len(comparison.data_sets), per_table):
            console.print()
            console.print(_by_data_set(comparison, comparison.data_sets[start : start + per_table]))
    console.print()
    for bar in comparison.bars:
        word = "passed" if bar.passed else "FAILED"
        console.print(f"{word}: {_plain(bar.why)}", style="green" if bar.passed else "bold red")
    if comparison.next_steps:
        console.print("to keep more, in this order:")
        for number, step in enumerate(comparison.next_steps, 1):
            console.print(f"{number}. {in_options(step)}", markup=False)
    console.print(_remarks(comparison), style="dim")


def _that_fit(metrics: Sequence[str], width: int, wide: bool) -> list[list[str]]:
    """The metrics in groups, the figures of each of which fit side by side."""
    groups: list[list[str]] = []
    left = 0
    for metric in metrics:
        # Its mean under its name, and what is kept; p and the bar of the first.
        needed = max(6, len(metric)) + 11 + (8 if wide else 0)
        if not groups or needed > left:
            groups.append([])
            left = width - _NAME - (0 if len(groups) > 1 else _BAR_WIDE + 2 if wide else _BAR + 2)
        groups[-1].append(metric)
        left -= needed
    return groups


def _quality(comparison: ComparisonReport, metrics: Sequence[str], found: Sequence[Glance], wide: bool) -> Table:
    from ibkd_retrieval.evaluation.formatting import metric_title, score, share

    columns = []
    for metric in metrics:
        columns.append(_Column(metric_title(metric)))
        if metric == comparison.metrics[0]:
            columns.append(_Column("", "left"))
        if comparison.is_judged:
            columns += [_Column("kept"), _Column("p", only_wide=True)]
    rows = []
    best = max((each.mean for each in found), default=0)
    for each in found:
        averages = comparison.averages[each.name]
        cells: list[RenderableType] = []
        for metric in metrics:
            kept = averages[metric].retention
            cells.append(score(averages[metric].mean))
            if metric == comparison.metrics[0]:
                cells.append(_bar(each.mean, best, wide))
            if not comparison.is_judged:
                continue
            is_first = each.name == comparison.baseline
            cells.append("" if is_first else _plain(share(kept)) + _mark(comparison, each.name, metric))
            cells.append("" if is_first else _p(comparison, each.name, metric))
        rows.append((each.name, cells))
    several = len(comparison.data_sets)
    what = "quality" if comparison.is_judged else f"agreement with {comparison.baseline}"
    title = f"{what} on {comparison.data_sets[0].name}" if several == 1 else f"{what} over {several} data sets"
    return _table(title, columns, rows, wide)


def _opinion(comparison: ComparisonReport) -> Table:
    from ibkd_retrieval.evaluation.report.tables import opinion_table

    shown = opinion_table(comparison)
    assert shown is not None
    rows: list[tuple[str, list[RenderableType]]] = [
        (name, [_plain(cell.text) for cell in cells]) for name, cells in shown.rows
    ]
    return _table(shown.caption, [_Column(each) for each in shown.columns], rows, True)


def _cost(found: Sequence[Glance], wide: bool) -> Table:
    from ibkd_retrieval.evaluation.formatting import count, factor, plain, share, size

    columns = [
        _Column("ms/query"),
        _Column("", "left"),
        _Column("speed"),
        _Column("range", only_wide=True),
        _Column("memory/doc"),
        _Column("", "left"),
        _Column("share"),
        _Column("documents/s", only_wide=True),
        _Column("parameters", only_wide=True),
    ]
    slowest = max(each.milliseconds for each in found)
    largest = max(each.memory_per_document or 0 for each in found)
    rows = []
    for number, each in enumerate(found):
        cells = [
            plain(each.milliseconds),
            _bar(each.milliseconds, slowest, wide),
            _plain(factor(each.speed)) if number else "",
            f"{plain(each.speed_spread[0])}–{plain(each.speed_spread[1])}" if number else "",
            _plain(size(each.memory_per_document)),
            _bar(each.memory_per_document or 0, largest, wide),
            _plain(share(1 / each.memory)) if number and each.memory is not None else "",
            plain(each.documents_per_second),
            _plain(count(each.parameters)),
        ]
        rows.append((each.name, cells))
    return _table("cost (shorter bars are better)", columns, rows, wide)


def _by_data_set(comparison: ComparisonReport, data_sets: Sequence[DataSetReport]) -> Table:
    from ibkd_retrieval.evaluation.formatting import metric_title, score, share, shortened
    from ibkd_retrieval.evaluation.report.glance import significant

    metric = comparison.metrics[0]
    rows = []
    for system in comparison.systems:
        cells: list[RenderableType] = []
        for each in data_sets:
            result = each.systems[system.name]
            contrast = result.contrasts.get(metric)
            found = result.scores[metric]
            if contrast is None or not comparison.is_judged:
                cells.append(score(found.mean))
            else:
                cells.append(_plain(share(found.retention)) + ("*" if significant(contrast) else " "))
        rows.append((system.name, cells))
    columns = [_Column(shortened(each.name, _DATA_SET - 1)) for each in data_sets]
    return _table(
        f"{metric_title(metric)}: the first system's score, and what the others keep of it", columns, rows, True
    )


def _table(
    title: str, columns: Sequence[_Column], rows: Sequence[tuple[str, Sequence[RenderableType]]], wide: bool
) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = [number for number, column in enumerate(columns) if wide or not column.only_wide]
    table = Table(box=None, pad_edge=False, title=Text(title), title_justify="left", title_style="bold")
    table.add_column("", overflow="fold", min_width=_NAME - 2)
    for number in shown:
        table.add_column(columns[number].heading, justify=columns[number].justify, no_wrap=True)  # type: ignore[arg-type]
    for name, cells in rows:
        table.add_row(Text(_plain(name)), *(cells[number] for number in shown))
    return table


def _bar(value: float, most: float, wide: bool) -> RenderableType:
    from rich.bar import Bar

    return Bar(size=most or 1, begin=0, end=value, width=_BAR_WIDE if wide else _BAR, color="cyan")


def _mark(comparison: ComparisonReport, system: str, metric: str) -> str:
    """A star where the difference is significant, on at least one data set where there are several."""
    from ibkd_retrieval.evaluation.report.glance import significant

    return "*" if any(significant(each.systems[system].contrasts[metric]) for each in comparison.data_sets) else " "


def _p(comparison: ComparisonReport, system: str, metric: str) -> str:
    from ibkd_retrieval.evaluation.formatting import p_value
    from ibkd_retrieval.evaluation.report.glance import significant

    contrasts = [each.systems[system].contrasts[metric] for each in comparison.data_sets]
    if len(contrasts) == 1:
        return p_value(contrasts[0].randomisation_p_holm)
    return f"{sum(map(significant, contrasts))} of {len(contrasts)}"


def _remarks(comparison: ComparisonReport) -> str:
    queries = sum(each.queries for each in comparison.data_sets)
    names = ", ".join(each.name for each in comparison.data_sets)
    where = " on one data set or more" if len(comparison.data_sets) > 1 else ""
    environment = comparison.environment
    if comparison.is_judged:
        reading = (
            f"{queries:,} judged queries of {names}; kept: share of {comparison.baseline}'s score; * differs "
            f"significantly{where} (paired randomisation test, Holm-corrected, p < 0.05)"
        )
    else:
        reading = f"{queries:,} queries of {names}, without judgements; rbo: rank-biased overlap"
    return _plain(
        f"{reading}; memory: what the index holds in memory; {environment.cpu or environment.platform}, "
        f"{environment.threads} threads"
    )


def _plain(text: str) -> str:
    """Without the spaces that keep a number and its unit on one line of a page."""
    return text.replace("\N{NO-BREAK SPACE}", " ")
