"""Scores in files: long CSV, a LaTeX table, and every query's value."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.scores import COLUMNS, SIGNIFICANT, Scores
from ibkd_retrieval.evaluation.text_tables import csv_table, latex_escaped, latex_table, one_line
from ibkd_retrieval.files import atomic_write


def as_csv(scores: Scores) -> str:
    """One line per run and metric, with its interval; with baselines one per run, metric and baseline."""
    return csv_table(COLUMNS, scores.rows())


def as_latex(scores: Scores) -> str:
    r"""A `booktabs` table: a row per run, baselines first, the best of each metric in bold.

    With baselines, each has a letter; a run carries it as superscript where it is significantly better than that
    baseline (corrected p < 0.05), as subscript where it is significantly worse.
    """
    letters = {run.name: ascii_lowercase[place % 26] for place, run in enumerate(scores.baselines)}
    everyone = (*scores.baselines, *scores.runs)
    best = {metric: max(round(run.evaluation.scores[metric], 4) for run in everyone) for metric in scores.metrics}
    lines = []
    for run in everyone:
        cells = [f"{latex_escaped(run.name)} ({letters[run.name]})" if run.name in letters else latex_escaped(run.name)]
        for metric in scores.metrics:
            value = round(run.evaluation.scores[metric], 4)
            shown = rf"\textbf{{{value:.4f}}}" if value == best[metric] else f"{value:.4f}"
            cells.append(shown + _marks(scores, run.name, metric, letters))
        lines.append(cells)
    count = len(scores.baselines)
    table = latex_table(scores.metrics, [lines[:count], lines[count:]])
    if not scores.baselines:
        return table
    return (
        f"{table}% Superscript: better than that baseline, subscript: worse; paired randomisation test, Holm-corrected "
        f"over {len(scores.contrasts)} comparisons, p < {SIGNIFICANT}, {len(scores.query_ids)} queries.\n"
    )


def _marks(scores: Scores, run: str, metric: str, letters: dict[str, str]) -> str:
    tested = [each for each in scores.contrasts if (each.run, each.metric) == (run, metric)]
    significant = [each for each in tested if each.randomisation_p_holm < SIGNIFICANT]
    better = "".join(letters[each.baseline] for each in significant if each.difference > 0)
    worse = "".join(letters[each.baseline] for each in significant if each.difference < 0)
    return (f"$^{{{better}}}$" if better else "") + (f"$_{{{worse}}}$" if worse else "")


def check_per_query_name(path: Path) -> None:
    """Refuse a name whose ending says neither TSV nor JSONL.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"{path}: every query's value is written as .tsv or .jsonl: give the file such an ending.")


def write_per_query(scores: Scores, path: Path) -> None:
    """Write every query's value of every metric, as TSV with a header or as JSONL, by the file's ending.

    The columns are query_id, metric and value; with more than one run or with baselines also run.

    Raises:
        UserError: another ending.
    """
    check_per_query_name(path)
    everyone = (*scores.runs, *scores.baselines)
    named = len(everyone) > 1
    lines = []
    for run in everyone:
        for metric in scores.metrics:
            for query_id, value in zip(scores.query_ids, run.evaluation.per_query[metric].tolist(), strict=True):
                row = {"query_id": query_id, "metric": metric, "value": value} | ({"run": run.name} if named else {})
                cells = (one_line(cell) for cell in row.values())
                lines.append(json.dumps(row, ensure_ascii=False) if path.suffix == ".jsonl" else "\t".join(cells))
    header = ["query_id\tmetric\tvalue" + ("\trun" if named else "")] if path.suffix == ".tsv" else []
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in [*header, *lines]).encode("utf-8"))
