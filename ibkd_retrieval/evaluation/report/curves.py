"""Figures of lines and distributions: recall against search parameters, differences query by query, query times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.evaluation.formatting import shortened, slashed
from ibkd_retrieval.evaluation.report.canvas import INK, MUTED, PAPER, TEXT, Look, dress, scale_x, steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POSITIONS = 400
"""Queries drawn of a sorted curve; with more, evenly spaced ones, which the eye cannot tell apart."""


class Curve(NamedTuple):
    """A system's line: how it is drawn, and its points [n, 2] in the order they are joined."""

    look: Look
    points: Sequence[tuple[float, float]]


def draw_recall(axes: Axes, curves: Sequence[Curve], params_label: str) -> None:
    """Draw recall against search parameters, or against search time; x is above 0."""
    dress(axes, params_label, "Recall@10 of exact search")
    scale_x(axes, [x for curve in curves for x, _ in curve.points])
    lowest = min(y for curve in curves for _, y in curve.points)
    bottom = max(0.0, lowest - max(0.02, 0.1 * (1 - lowest)))
    axes.set_ylim(bottom, 1 + 0.04 * (1 - bottom))
    axes.set_yticks(steps(bottom, 1, 5))
    for curve in curves:
        _plot(axes, curve, markersize=6)


def draw_differences(axes: Axes, curves: Sequence[Curve], label: str) -> None:
    """Draw each system's differences to the first system, from the query it lost most on to the one it won most on.

    Args:
        axes: to draw on.
        curves: of each further system, x being the share of queries in percent.
        label: of the difference.
    """
    dress(axes, "queries, sorted by difference (%)", label)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100])
    values = [y for curve in curves for _, y in curve.points]
    low, high = min(*values, 0.0), max(*values, 0.0)
    room = max(0.08 * (high - low), 0.01)
    axes.set_ylim(low - room, high + room)
    ticks = steps(low - room, high + room, 5)
    axes.set_yticks(ticks, [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in ticks])
    axes.axhline(0, color=MUTED, linewidth=1, zorder=1.5)
    for number, curve in enumerate(curves):
        if len(curves) == 1:
            xs, ys = zip(*curve.points, strict=True)
            axes.fill_between(xs, ys, step="mid", color=curve.look.colour, alpha=0.25, linewidth=0)
        # Markers start at another place on each curve, so that they do not lie on one another.
        every = max(1, len(curve.points) // 8)
        _plot(axes, curve, markersize=5, markevery=(number * every // len(curves), every))


def _plot(axes: Axes, curve: Curve, **markers: Any) -> None:
    look = curve.look
    xs, ys = zip(*curve.points, strict=True)
    axes.plot(
        xs,
        ys,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.4,
        marker=look.marker,
        markerfacecolor=PAPER if look.hollow else look.colour,
        **markers,
    )


def sorted_positions(differences: Sequence[float]) -> list[tuple[float, float]]:
    """Differences in ascending order, each with the share of queries in percent up to its middle."""
    ordered = sorted(differences)
    total = len(ordered)
    if total <= _MOST_POSITIONS:
        chosen = list(range(total))
    else:
        chosen = [round(step * (total - 1) / (_MOST_POSITIONS - 1)) for step in range(_MOST_POSITIONS)]
    return [(100 * (place + 0.5) / total, ordered[place]) for place in chosen]


_PEAK = 0.56
"""Height of a row's highest bin, where rows are 1 apart."""


class Distribution(NamedTuple):
    """The times of one system.

    Attributes:
        name: of the system.
        look: how it is drawn.
        edges: of the bins [n + 1], in milliseconds, ascending.
        counts: in each bin [n].
        percentiles: p50, p95, p99 in milliseconds.
    """

    name: str
    look: Look
    edges: Sequence[float]
    counts: Sequence[int]
    percentiles: tuple[float, float, float]


def draw_distributions(axes: Axes, distributions: Sequence[Distribution]) -> None:
    """Draw a histogram for each system, first on top, each to its own height; ticks mark p50, p95 and p99."""
    dress(axes, "time per query (ms)", "")
    filled = [(found, _filled(found)) for found in distributions]
    scale_x(
        axes, [end for found, bins in filled for end in (*found.percentiles, *(e for b in bins for e in b[:2]))], 1.1
    )
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(-len(distributions) + 0.75, 1)
    for number, (found, bins) in enumerate(filled):
        base, colour = float(-number), found.look.colour
        highest = max((count for *_, count in bins), default=1)
        for left, right, count in bins:
            axes.fill_between(
                [left, right], base, base + _PEAK * count / highest, color=colour, alpha=0.35, linewidth=0
            )
        axes.axhline(base, color=colour, linewidth=0.8)
        for percentile, height in zip(found.percentiles, (_PEAK, 0.36, 0.24), strict=True):
            axes.plot([percentile] * 2, [base, base + height], color=colour, linewidth=1.8)
        axes.plot(
            found.percentiles[0],
            base + _PEAK,
            linestyle="",
            marker=found.look.marker,
            markersize=6,
            markerfacecolor=PAPER if found.look.hollow else colour,
            markeredgecolor=colour,
        )
        axes.text(
            0,
            base + 0.66,
            f"{shortened(found.name, 34)}  {slashed(found.percentiles)}",
            transform=axes.get_yaxis_transform(),
            fontsize=TEXT - 1,
            color=INK,
            va="bottom",
        )


def _filled(found: Distribution) -> list[tuple[float, float, int]]:
    """Left edge, right edge and count of the bins that hold anything."""
    bins = zip(found.edges[:-1], found.edges[1:], found.counts, strict=True)
    return [(left, right, count) for left, right, count in bins if count]
