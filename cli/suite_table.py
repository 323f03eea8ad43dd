"""A suite's scores on the screen, and as JSON, CSV or LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import print_json, print_table, stdout, write_text

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.suite_results import SuiteResult


def show_suite(result: SuiteResult, form: str) -> None:
    """Print a suite's result: a line per data set, the average, and what the average is over."""
    if form == "json":
        print_json(result.to_json())
    elif form == "table":
        _print_table(result)
    else:
        from ibkd_retrieval.evaluation.suite_files import suite_as_csv, suite_as_latex

        write_text(suite_as_csv(result) if form == "csv" else suite_as_latex(result), None)


def _print_table(result: SuiteResult) -> None:
    from rich.table import Table

    from ibkd_retrieval.evaluation.suite_files import average_name

    table = Table(box=None, pad_edge=False)
    table.add_column("data set")
    table.add_column("queries", justify="right")
    for metric in result.metrics:
        table.add_column(metric, justify="right")
    scored = {member.name: member for member in result.members}
    for name in result.groups:
        member = scored.get(name)
        if member is None:
            table.add_row(name, *[""] * (len(result.metrics) + 1))
        else:
            cells = (f"{member.scores[metric]:.4f}" for metric in result.metrics)
            table.add_row(name, f"{member.queries:,}", *cells)
    averages = result.averages()
    if averages:
        table.add_row(average_name(result), "", *(f"{averages[metric]:.4f}" for metric in result.metrics))
    print_table(table)
    remarks = [f"{result.system} on {result.suite}"]
    if len(result.groups) > result.sets:
        remarks.append("the parts of a set are averaged first")
    for member in result.members:
        if member.missing:
            remarks.append(f"{member.name}: {member.missing:,} queries without results, scored 0")
    stdout().print("; ".join(remarks), style="dim")
