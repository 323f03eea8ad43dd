"""How query times are distributed: a row for each system, with its median and tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.evaluation.drawing.canvas import TEXT, dress, scale_x
from ibkd_retrieval.evaluation.drawing.numbers import shortened, slashed
from ibkd_retrieval.evaluation.drawing.palette import INK, PAPER, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
