"""The picture for a README: quality against latency and against memory, under the sentence."""

from __future__ import annotations

import math
import textwrap
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.evaluation.compare.report import ComparisonReport
from ibkd_retrieval.evaluation.report.canvas import PAPER, Look, blank, drawing, require_matplotlib
from ibkd_retrieval.evaluation.report.fronts import draw_front, label_points
from ibkd_retrieval.evaluation.report.glance import glances
from ibkd_retrieval.evaluation.report.numbers import metric_title, shortened
from ibkd_retrieval.evaluation.report.plots import MEMORY_LABEL, TIME_LABEL, front_points, system_looks
from ibkd_retrieval.evaluation.report.sentence import summary_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _LEGEND_ROW = 800.0, 370.0, 16.0
_DOTS_PER_INCH = 144
_LEGEND_COLUMNS = 3
_LINE = 112
"""Letters of the sentence on a line."""

_OTHER_SCRIPTS = ("Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari")


def overview_png(comparison: ComparisonReport) -> bytes:
    """Draw the picture, on white, 1,600 dots wide.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    # DejaVu, which matplotlib brings, lacks these scripts.
    families = ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]
    picture = BytesIO()
    with drawing(font_family=families):
        figure, unnamed = _figure(comparison, with_legend=False)
        if unnamed:
            figure, _ = _figure(comparison, with_legend=True)
        figure.savefig(picture, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return picture.getvalue()


def _figure(comparison: ComparisonReport, with_legend: bool) -> tuple[Figure, int]:
    """The picture, and how many points go without a name beside them."""
    from matplotlib import patheffects

    sentence = textwrap.wrap(summary_sentence(comparison), _LINE)
    looks = system_looks(comparison)
    rows = math.ceil(len(looks) / _LEGEND_COLUMNS) if with_legend else 0
    figure = blank(_WIDTH, _HEIGHT + 15 * len(sentence) + _LEGEND_ROW * rows)
    figure.suptitle("\n".join(sentence), x=0.01, ha="left", fontsize=12)
    if with_legend:
        handles = [_handle(shortened(name, 40), look) for name, look in looks.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=10)
    metric = metric_title(comparison.metrics[0])
    times, memory = front_points(comparison, glances(comparison))
    fronts = [(times, TIME_LABEL), *([(memory, MEMORY_LABEL)] if memory else [])]
    panels = figure.subplots(1, len(fronts), squeeze=False)[0]
    for panel, (of, label) in zip(panels, fronts, strict=True):
        draw_front(panel, of, label, metric)
    unnamed = 0
    for panel, (of, _) in zip(panels, fronts, strict=True):
        unnamed += len(of) - label_points(panel, of)
        for text in panel.texts:
            text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground=PAPER)])
    return figure, unnamed


def _handle(name: str, look: Look) -> Any:
    from matplotlib.lines import Line2D

    face = PAPER if look.hollow else look.colour
    return Line2D(
        [],
        [],
        linestyle="",
        marker=look.marker,
        markersize=7,
        markerfacecolor=face,
        markeredgecolor=look.colour,
        label=name,
    )
