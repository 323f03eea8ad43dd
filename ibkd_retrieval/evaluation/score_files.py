"""A scoreboard in files: long CSV, a LaTeX table, and every query's value."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from string import ascii_lowercase

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.scores import SIGNIFICANT, Scores
from ibkd_retrieval.files import atomic_write

_CSV_HEADER = (
    *("run", "metric", "score", "low", "high", "queries", "missing_queries", "unjudged_queries", "judged@10"),
    *("baseline", "difference", "difference_low", "difference_high", "t_test_p", "randomisation_p"),
    *("randomisation_p_holm", "wins", "ties", "losses"),
)
_LATEX_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def as_csv(board: Scores) -> str:
    """One line per run and metric, with its interval; with baselines one per run, metric and baseline."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for run in (*board.baselines, *board.runs):
        found = run.evaluation
        for metric in board.metrics:
            low, high = board.intervals[run.name, metric]
            scored = [run.name, metric, found.scores[metric], low, high, len(board.query_ids)]
            scored += [found.missing, found.extra, found.judged_share]
            against = [each for each in board.contrasts if (each.run, each.metric) == (run.name, metric)]
            for each in against:
                tested = [
                    each.baseline,
                    each.difference,
                    *each.interval,
                    "" if each.t_test_p is None else each.t_test_p,
                ]
                writer.writerow([*scored, *tested, each.randomisation_p, each.randomisation_p_holm, *each.queries])
            if not against:
                writer.writerow([*scored, *[""] * (len(_CSV_HEADER) - len(scored))])
    return out.getvalue()


def as_latex(board: Scores) -> str:
    r"""A `booktabs` table: a row per run, baselines first, the best of each metric in bold.

    With baselines, each has a letter; a run carries it as superscript where it is significantly better than that
    baseline (corrected p < 0.05), as subscript where it is significantly worse.
    """
    letters = {run.name: ascii_lowercase[place % 26] for place, run in enumerate(board.baselines)}
    everyone = (*board.baselines, *board.runs)
    best = {metric: max(round(run.evaluation.scores[metric], 4) for run in everyone) for metric in board.metrics}
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(board.metrics)}}}",
        r"\toprule",
        rf" & {' & '.join(map(latex_escaped, board.metrics))} \\",
        r"\midrule",
    ]
    for place, run in enumerate(everyone):
        if board.baselines and place == len(board.baselines):
            lines.append(r"\midrule")
        cells = [f"{latex_escaped(run.name)} ({letters[run.name]})" if run.name in letters else latex_escaped(run.name)]
        for metric in board.metrics:
            value = round(run.evaluation.scores[metric], 4)
            shown = rf"\textbf{{{value:.4f}}}" if value == best[metric] else f"{value:.4f}"
            cells.append(shown + _marks(board, run.name, metric, letters))
        lines.append(rf"{' & '.join(cells)} \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if board.baselines:
        lines.append(
            f"% Superscript: better than that baseline, subscript: worse; paired randomisation test, Holm-corrected "
            f"over {len(board.contrasts)} comparisons, p < {SIGNIFICANT}, {len(board.query_ids)} queries."
        )
    return "\n".join(lines) + "\n"


def _marks(board: Scores, run: str, metric: str, letters: dict[str, str]) -> str:
    tested = [each for each in board.contrasts if (each.run, each.metric) == (run, metric)]
    significant = [each for each in tested if each.randomisation_p_holm < SIGNIFICANT]
    better = "".join(letters[each.baseline] for each in significant if each.difference > 0)
    worse = "".join(letters[each.baseline] for each in significant if each.difference < 0)
    return (f"$^{{{better}}}$" if better else "") + (f"$_{{{worse}}}$" if worse else "")


def latex_escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def check_per_query_name(path: Path) -> None:
    """Refuse a name whose ending says neither TSV nor JSONL.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"{path}: every query's value is written as .tsv or .jsonl: give the file such an ending.")


def write_per_query(board: Scores, path: Path) -> None:
    """Write every query's value of every metric, as TSV with a header or as JSONL, by the file's ending.

    The columns are query_id, metric and value; with more than one run or with baselines also run.

    Raises:
        UserError: another ending.
    """
    check_per_query_name(path)
    everyone = (*board.runs, *board.baselines)
    named = len(everyone) > 1
    lines = []
    for run in everyone:
        for metric in board.metrics:
            for query_id, value in zip(board.query_ids, run.evaluation.per_query[metric].tolist(), strict=True):
                row = {"query_id": query_id, "metric": metric, "value": value} | ({"run": run.name} if named else {})
                cells = (str(cell) for cell in row.values())
                lines.append(json.dumps(row, ensure_ascii=False) if path.suffix == ".jsonl" else "\t".join(cells))
    header = ["query_id\tmetric\tvalue" + ("\trun" if named else "")] if path.suffix == ".tsv" else []
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in [*header, *lines]).encode("utf-8"))
