"""A suite's scores as CSV and as a LaTeX table."""

from __future__ import annotations

import csv
import io

from ibkd_retrieval.evaluation.score_files import latex_escaped
from ibkd_retrieval.evaluation.suite_results import SuiteResult


def suite_as_csv(result: SuiteResult) -> str:
    """One line per data set and metric, and one per average."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("system", "data_set", "group", "metric", "score", "queries", "missing_queries", "judged@10"))
    for member in result.members:
        for metric, score in member.scores.items():
            described = (result.system, member.name, member.group, metric, score)
            writer.writerow((*described, member.queries, member.missing, member.judged_share))
    for metric, score in result.averages().items():
        writer.writerow((result.system, average_name(result), "", metric, score, "", "", ""))
    return out.getvalue()


def suite_as_latex(result: SuiteResult) -> str:
    """A `booktabs` table: a row per data set, the average below."""
    rows = [
        [latex_escaped(member.name), *(f"{member.scores[metric]:.4f}" for metric in result.metrics)]
        for member in result.members
    ]
    averages = result.averages()
    last = [[average_name(result), *(f"{averages[metric]:.4f}" for metric in result.metrics)]] if averages else []
    lines = [
        r"% \usepackage{booktabs}",
        f"% {result.system} on {result.suite}",
        rf"\begin{{tabular}}{{l{'r' * len(result.metrics)}}}",
        r"\toprule",
        rf" & {' & '.join(map(latex_escaped, result.metrics))} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in rows),
        *([r"\midrule"] if last else []),
        *(rf"{' & '.join(row)} \\" for row in last),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def average_name(result: SuiteResult) -> str:
    """What the average is called, so that one over some of the sets is not taken for the suite's."""
    complete = len(result.complete_groups())
    return "average" if complete == result.sets else f"average of {complete} of {result.sets}"
