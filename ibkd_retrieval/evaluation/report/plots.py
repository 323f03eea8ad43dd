"""The figures of a comparison: their values and captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport, SystemRecord, TradeoffPoint
from ibkd_retrieval.evaluation.formatting import metric_title, plain, score, shortened, signed, slashed
from ibkd_retrieval.evaluation.report.canvas import PAPER, Look, blank, drawing, inline_svg, looks, require_matplotlib
from ibkd_retrieval.evaluation.report.curves import (
    Curve,
    Distribution,
    draw_differences,
    draw_distributions,
    draw_recall,
    sorted_positions,
)
from ibkd_retrieval.evaluation.report.fronts import Point, draw_front, label_points, pareto_front
from ibkd_retrieval.evaluation.report.glance import Glance, glances
from ibkd_retrieval.evaluation.report.sentence import summary_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 400.0, 290.0
"""Of a figure in points: at this width its text can be read on a phone, and three stand side by side on a desk."""

TIME_LABEL, MEMORY_LABEL = "time per query, p50 (ms)", "index memory per document (bytes)"


class Plot(NamedTuple):
    """A figure in the page.

    Attributes:
        svg: the `svg` element.
        title: above it.
        caption: beneath it; how to read it.
        systems: those in the legend; empty where the figure names them itself.
    """

    svg: str
    title: str
    caption: str
    systems: tuple[str, ...]


def system_looks(comparison: ComparisonReport) -> dict[str, Look]:
    """How each system is drawn, by name."""
    encoders = [f"{each.encoder.weight_hash} {each.encoder.dims}" for each in comparison.systems]
    return dict(zip((each.name for each in comparison.systems), looks(encoders), strict=True))


def average_fronts(comparison: ComparisonReport) -> list[Plot]:
    """Quality against latency and against memory, over all data sets."""
    found = glances(comparison)
    metric = metric_title(comparison.metrics[0])
    return _fronts("overall", front_points(comparison, found), metric, comparison)


def front_points(comparison: ComparisonReport, found: Sequence[Glance]) -> tuple[list[Point], list[Point]]:
    """The systems in the planes of latency and quality, and of memory and quality; scanned ones only in the first."""
    drawn = system_looks(comparison)
    return (
        [Point(g.name, drawn[g.name], g.milliseconds, g.milliseconds_spread, g.mean, g.interval) for g in found],
        [
            Point(g.name, drawn[g.name], g.memory_per_document, None, g.mean, g.interval)
            for g in found
            if g.memory_per_document is not None
        ],
    )


def data_set_plots(comparison: ComparisonReport, data_set: DataSetReport, name: str) -> list[Plot]:
    """All figures of one data set.

    Args:
        comparison: that it is part of.
        data_set: one of its data sets.
        name: begins the ids of the figures; unique in the page.
    """
    metric = metric_title(comparison.metrics[0])
    drawn = system_looks(comparison)
    times, memory = [], []
    for system in comparison.systems:
        result = data_set.systems[system.name]
        found = result.scores[comparison.metrics[0]]
        total, look = result.latency_ms.total, drawn[system.name]
        times.append(Point(system.name, look, total.p50, total.spread, found.mean, found.interval))
        per_document = result.sizes.memory_bytes_per_document
        if per_document:
            memory.append(Point(system.name, look, per_document, None, found.mean, found.interval))
    return [
        *(_fronts(name, (times, memory), metric, comparison) if len(comparison.data_sets) > 1 else []),
        *_recall(name, data_set, comparison.systems, drawn),
        *_differences(name, comparison, data_set, drawn),
        _latency(name, data_set, comparison.systems, drawn),
    ]


def _fronts(
    name: str, points: tuple[list[Point], list[Point]], metric: str, comparison: ComparisonReport
) -> list[Plot]:
    plots = []
    whiskers = f"Vertical lines: {comparison.confidence:.0%} bootstrap intervals. " if points[0][0].interval else ""
    for which, title, label, unit, of in (
        ("latency", "Quality and latency", TIME_LABEL, "ms", points[0]),
        ("memory", "Quality and memory", MEMORY_LABEL, "bytes a document", points[1]),
    ):
        if not of:
            continue
        front = ", ".join(point.name for point in pareto_front(of))
        described = "; ".join(f"{each.name}: {score(each.quality)} at {plain(each.cost)} {unit}" for each in of)
        named: list[int] = []

        def draw(axes: Axes, of: list[Point] = of, label: str = label, named: list[int] = named) -> None:
            draw_front(axes, of, label, metric)
            named.append(label_points(axes, of))

        svg = _drawn(f"{name}-{which}", f"{metric} against {label}", f"{described}. On the front: {front}.", draw)
        caption = f"Up and to the left is better; the dashed line joins what no other system beats in both. {whiskers}"
        plots.append(Plot(svg, title, caption.strip(), () if named == [len(of)] else tuple(point.name for point in of)))
    return plots


def _recall(name: str, data_set: DataSetReport, systems: Sequence[SystemRecord], drawn: dict[str, Look]) -> list[Plot]:
    axes: tuple[tuple[str, str, str, Callable[[TradeoffPoint], float | None]], ...] = (
        ("nprobe", "Recall and nprobe", "nprobe (inverted lists visited)", lambda point: point.nprobe),
        ("ef-search", "Recall and efSearch", "efSearch (size of the candidate list)", lambda point: point.ef_search),
        ("search-time", "Recall and search time", "time per search, p50 (ms)", lambda point: point.search_p50_ms),
    )
    plots = []
    for which, title, label, x_of in axes:
        curves = {}
        for system in systems:
            pairs = [(x_of(point), point.recall_at_10) for point in data_set.systems[system.name].tradeoff_curve]
            # In the order of the search parameters: the time may fall where the machine was busy with something else.
            points = [(float(x), y) for x, y in pairs if x]
            if points:
                curves[system.name] = Curve(drawn[system.name], points)
        if not curves:
            continue
        described = "; ".join(
            f"{system}: {curve.points[0][1]:.3f} at {plain(curve.points[0][0])} to {curve.points[-1][1]:.3f} at "
            f"{plain(curve.points[-1][0])}"
            for system, curve in curves.items()
        )
        svg = _drawn(
            f"{name}-{which}",
            f"Recall@10 of exact search against {label}",
            f"{described}.",
            lambda axes, curves=curves, label=label: draw_recall(axes, list(curves.values()), label),  # type: ignore[misc]
        )
        caption = "How much of what an exact search of the same vectors finds, by search parameters."
        plots.append(Plot(svg, title, caption, tuple(curves)))
    return plots


def _differences(
    name: str, comparison: ComparisonReport, data_set: DataSetReport, drawn: dict[str, Look]
) -> list[Plot]:
    metric = comparison.metrics[0]
    values = data_set.per_query.values
    first = values[comparison.baseline][metric]
    curves, described = {}, []
    for system in comparison.systems[1:]:
        ours = values[system.name][metric]
        curves[system.name] = Curve(
            drawn[system.name], sorted_positions([a - b for a, b in zip(ours, first, strict=True)])
        )
        contrast = data_set.systems[system.name].contrasts[metric]
        described.append(
            f"{system.name}: better on {contrast.wins:,}, equal on {contrast.ties:,}, worse on {contrast.losses:,} "
            f"queries, {signed(contrast.difference)} on average"
        )
    if not curves:
        return []
    svg = _drawn(
        f"{name}-differences",
        f"Difference in {metric_title(metric)} to {comparison.baseline}, query by query",
        f"{'; '.join(described)}.",
        lambda axes: draw_differences(axes, list(curves.values()), f"difference in {metric_title(metric)}"),
    )
    caption = (
        f"Each query's {metric_title(metric)} less that of {comparison.baseline}, from the greatest loss on the left "
        "to the greatest gain on the right."
    )
    return [Plot(svg, "Differences query by query", caption, tuple(curves))]


def _latency(name: str, data_set: DataSetReport, systems: Sequence[SystemRecord], drawn: dict[str, Look]) -> Plot:
    rows = []
    for system in systems:
        latency = data_set.systems[system.name].latency_ms
        total, histogram = latency.total, latency.histogram
        look = drawn[system.name]
        percentiles = (total.p50, total.p95, total.p99)
        rows.append(Distribution(system.name, look, histogram.edges_ms, histogram.counts, percentiles))
    described = "; ".join(f"{row.name}: {slashed(row.percentiles)}" for row in rows)
    svg = _drawn(
        f"{name}-times",
        "Distribution of the time per query in milliseconds",
        f"p50 / p95 / p99: {described}.",
        lambda axes: draw_distributions(axes, rows),
        height=max(HEIGHT, 46 + 34.0 * len(rows)),
    )
    caption = "Encoding and search of single queries; beside each name and as vertical strokes: p50 / p95 / p99."
    return Plot(svg, "Latency", caption, ())


def _drawn(name: str, title: str, description: str, draw: Callable[[Axes], None], height: float = HEIGHT) -> str:
    with drawing():
        figure = blank(WIDTH, height)
        draw(figure.subplots())
        return inline_svg(figure, name, title, description)


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
