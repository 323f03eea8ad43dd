"""Scores, suites and correlations on the terminal, and as JSON, CSV or LaTeX."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import TYPE_CHECKING

from .console import AS_IT_IS, print_json, print_table, stdout, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from ibkd_retrieval.evaluation.scores import ScoredRun, Scores
    from ibkd_retrieval.evaluation.sts import StsScores
    from ibkd_retrieval.evaluation.suite_results import SuiteResult

_WIDE = 1000


def show_scores(scores: Scores, form: str, output: Path | None) -> None:
    """Show scores with their intervals and tests, and what was not scored; in a form and in a file where asked for.

    Args:
        scores: what to show.
        form: "table", "json", "csv" or "latex".
        output: the file; standard output unless given.
    """
    if form == "table" and output is None:
        console = stdout()
        if not console.is_terminal:
            console.width = _WIDE
        _draw(console, scores)
    elif form == "table":
        write_text(_as_text(lambda console: _draw(console, scores)), output)
    elif form == "json":
        write_text(dumps(scores.to_json()) + "\n", output)
    else:
        from ibkd_retrieval.evaluation.evaluate import as_csv, as_latex

        write_text(as_csv(scores) if form == "csv" else as_latex(scores), output)


def show_sts(found: StsScores, form: str, output: Path | None) -> None:
    """Show correlations; the arguments are those of `show_scores`."""
    if form == "table" and output is None:
        _draw_sts(stdout(), found)
    elif form == "table":
        write_text(_as_text(lambda console: _draw_sts(console, found)), output)
    elif form == "json":
        write_text(dumps(found.to_json()) + "\n", output)
    else:
        write_text(found.as_csv() if form == "csv" else found.as_latex(), output)


def _draw_sts(console: Console, found: StsScores) -> None:
    from rich.table import Table

    header, rows = found.shown()
    table = Table(box=None, pad_edge=False)
    for place, heading in enumerate(header):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(found.remark, style="dim", soft_wrap=True)


def _as_text(draw: Callable[[Console], None]) -> str:
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    draw(Console(file=text, width=_WIDE, soft_wrap=True, **AS_IT_IS))
    return text.getvalue()


def _draw(console: Console, scores: Scores) -> None:
    from rich.table import Table

    everyone = (*scores.baselines, *scores.runs)
    table = Table(box=None, pad_edge=False)
    if len(everyone) == 1:
        for heading, justify in (
            ("metric", "left"),
            ("score", "right"),
            (f"{scores.confidence:.0%} interval", "right"),
        ):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for metric in scores.metrics:
            table.add_row(metric, *_cells(scores, everyone[0], metric))
    else:
        table.add_column("run")
        for metric in scores.metrics:
            table.add_column(metric, justify="right")
            table.add_column(f"{scores.confidence:.0%}", justify="right")
        for run in everyone:
            cells = [cell for metric in scores.metrics for cell in _cells(scores, run, metric)]
            table.add_row(run.name, *cells)
    console.print(table)
    if scores.contrasts:
        console.print()
        console.print(_contrasts(scores))
    for run in everyone:
        console.print(f"{run.source}: {'; '.join(_remarks(scores, run))}", style="dim")
    method = f"intervals: percentile bootstrap over queries, {scores.resamples:,} resamples, seed {scores.seed}"
    if scores.contrasts:
        method += (
            f"; p: paired t-test, and paired randomisation test ({scores.permutations:,} permutations) with Holm's "
            f"correction for {len(scores.contrasts)} comparison{'s' if len(scores.contrasts) > 1 else ''}"
        )
    console.print(method, style="dim")


def _cells(scores: Scores, run: ScoredRun, metric: str) -> tuple[str, str]:
    low, high = scores.intervals[run.name, metric]
    return f"{run.evaluation.scores[metric]:.4f}", f"[{low:.4f}, {high:.4f}]"


def _contrasts(scores: Scores) -> Table:
    from rich.table import Table

    from ibkd_retrieval.evaluation.scores import SIGNIFICANT

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "baseline", "metric"):
        table.add_column(heading)
    for heading in ("difference", f"{scores.confidence:.0%}", "t-test p", "p", "p (Holm)", "win/tie/loss"):
        table.add_column(heading, justify="right")
    for each in scores.contrasts:
        low, high = each.interval
        mark = " *" if each.randomisation_p_holm < SIGNIFICANT else ""
        table.add_row(
            each.run,
            each.baseline,
            each.metric,
            f"{each.difference:+.4f}",
            f"[{low:+.4f}, {high:+.4f}]",
            "" if each.t_test_p is None else f"{each.t_test_p:.4f}",
            f"{each.randomisation_p:.4f}",
            f"{each.randomisation_p_holm:.4f}{mark}",
            "/".join(map(str, each.queries)),
        )
    return table


def _remarks(scores: Scores, run: ScoredRun) -> list[str]:
    from ibkd_retrieval.evaluation.metrics import JUDGED_DEPTH

    found = run.evaluation
    if not scores.is_judged:
        missing = [f"{found.missing:,} of them missing from the run, counted as 0"] if found.missing else []
        return [
            f"agreement with {scores.judgements} on {len(scores.query_ids):,} queries, without judgements",
            *missing,
        ]
    remarks = [f"{len(scores.query_ids):,} judged queries of {scores.judgements}"]
    if found.relevance_level > 1:
        remarks.append(f"relevant from grade {found.relevance_level}")
    if found.missing:
        remarks.append(f"{found.missing:,} of them missing from the run, scored 0")
    if found.extra:
        remarks.append(f"{found.extra:,} queries without judgements left out")
    if found.without_relevant:
        remarks.append(f"{found.without_relevant:,} without a relevant document, scored 0")
    remarks.append(f"{1 - found.judged_share:.1%} of the first {JUDGED_DEPTH} results unjudged")
    return remarks


def show_suite(result: SuiteResult, form: str) -> None:
    """Print a suite's result: a line per data set, the average, and what the average is over."""
    if form == "json":
        print_json(result.to_json())
    elif form == "table":
        _print_table(result)
    else:
        from ibkd_retrieval.evaluation.suite_results import suite_as_csv, suite_as_latex

        write_text(suite_as_csv(result) if form == "csv" else suite_as_latex(result), None)


def _print_table(result: SuiteResult) -> None:
    from rich.table import Table

    from ibkd_retrieval.evaluation.suite_results import average_name

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
