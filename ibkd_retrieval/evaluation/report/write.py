"""The files of a report."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.evaluation.compare.report import ComparisonReport
from ibkd_retrieval.evaluation.report.canvas import require_matplotlib
from ibkd_retrieval.evaluation.report.html import comparison_as_html
from ibkd_retrieval.evaluation.report.markdown import comparison_as_markdown
from ibkd_retrieval.evaluation.report.overview import overview_png
from ibkd_retrieval.files import atomic_write, write_json


def write_report(comparison: ComparisonReport, folder: Path) -> list[Path]:
    """Write report.json, report.md, report.html and report.png into `folder`, each whole or not at all.

    Args:
        comparison: to write down.
        folder: made where there is none.

    Returns:
        The files, in this order.

    Raises:
        MissingPackage: matplotlib is not installed; report.json and report.md are there all the same, and say nothing
            of a picture.
    """
    try:
        require_matplotlib()
        missing = None
    except MissingPackage as error:
        missing = error
    json, markdown, page, picture = (folder / f"report.{ending}" for ending in ("json", "md", "html", "png"))
    write_json(json, comparison.to_json())
    _write(markdown, comparison_as_markdown(comparison, None if missing else picture.name).encode("utf-8"))
    if missing is not None:
        raise missing
    _write(page, comparison_as_html(comparison).encode("utf-8"))
    _write(picture, overview_png(comparison))
    return [json, markdown, page, picture]


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
