"""The report of a comparison, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.compare.report import ComparisonReport
    from ibkd_retrieval.progress import Progress


def save_report(comparison: ComparisonReport, folder: Path, progress: Progress) -> None:
    """Write the report and say where it is.

    Without the packages that draw, the page and the picture are left out, and it is said how to get them: what was
    measured for an hour is not lost for that.
    """
    from ibkd_retrieval.errors import MissingPackage
    from ibkd_retrieval.evaluation.report import write_report

    try:
        progress.say(", ".join(map(str, write_report(comparison, folder))))
    except MissingPackage as error:
        progress.say(f"{folder / 'report.json'}, {folder / 'report.md'}. {error}")
