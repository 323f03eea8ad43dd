"""Quality against a cost: each system a point, and the front of those that no other beats in both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.evaluation.formatting import shortened
from ibkd_retrieval.evaluation.report.canvas import INK, MUTED, PAPER, TEXT, Look, dress, scale_x, steps, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Box(NamedTuple):
    """A rectangle; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def distance(self, point: tuple[float, float]) -> float:
        """From `point` to the nearest edge; 0 inside."""
        x, y = point
        return math.hypot(max(self.left - x, 0, x - self.right), max(self.bottom - y, 0, y - self.top))

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    taken: Sequence[Box] = (),
    chosen: Sequence[int] | None = None,
    clearance: float = 7.0,
) -> list[Box] | None:
    """Find a place for each label: inside the area, over no other label and no point, and nearest to its own point.

    Labels are placed in the order in which fewest places are left, each at the nearest that is free.

    Args:
        points: x, y of each.
        sizes: width and height of the labels, one for each point that gets one.
        area: where labels may be.
        taken: rectangles that labels leave free.
        chosen: the points that get a label, by number; all unless given.
        clearance: from a point's centre to its marker's edge.

    Returns:
        A box for each label; None where they do not fit.
    """
    labelled = [points[number] for number in (range(len(points)) if chosen is None else chosen)]
    markers = [Box(x - clearance, y - clearance, x + clearance, y + clearance) for x, y in points]
    blocked = [*markers, *taken]
    choices = {
        number: [
            box
            for box in _around(point, size, clearance)
            if area.holds(box)
            and not any(box.meets(other) for other in blocked)
            and box.distance(point) <= min(map(box.distance, points))
        ]
        for number, (point, size) in enumerate(zip(labelled, sizes, strict=True))
    }
    placed: dict[int, Box] = {}
    while choices:
        free = {
            n: [box for box in boxes if not any(box.meets(p) for p in placed.values())] for n, boxes in choices.items()
        }
        number = min(free, key=lambda n: len(free[n]))
        if not free[number]:
            return None
        placed[number] = free[number][0]
        del choices[number]
    return [placed[number] for number in range(len(labelled))]


def _around(point: tuple[float, float], size: tuple[float, float], clearance: float) -> Iterator[Box]:
    """Places for a label of `size`, nearest first: right, left, above, below, then the corners, ever further out."""
    (x, y), (width, height) = point, size
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for distance, (across, up) in itertools.product((1.0, 1.8, 2.8), directions):
        reach = clearance * distance
        left = x + reach if across > 0 else x - reach - width if across < 0 else x - width / 2
        bottom = y + reach if up > 0 else y - reach - height if up < 0 else y - height / 2
        yield Box(left, bottom, left + width, bottom + height)


_LONGEST = 30


class Point(NamedTuple):
    """A system in the plane of cost and quality.

    Attributes:
        name: the label.
        look: how it is drawn.
        cost: above 0; less is better.
        cost_spread: least and greatest of the rounds; None where it is no measurement of time.
        quality: more is better.
        interval: of the quality; None where unknown.
    """

    name: str
    look: Look
    cost: float
    cost_spread: tuple[float, float] | None
    quality: float
    interval: tuple[float, float] | None


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other matches in cost and quality while it is better in one of them, by growing cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def draw_front(axes: Axes, points: Sequence[Point], cost_label: str, quality_label: str) -> None:
    """Draw points with their intervals, and the front as a stepped line.

    `label_points` puts names to them once the figure's other parts are there.
    """
    dress(axes, cost_label, quality_label)
    scale_x(axes, [point.cost for point in points])
    _scale_quality(axes, points)
    front = pareto_front(points)
    end = axes.get_xlim()[1]
    axes.step(
        [*(point.cost for point in front), end],
        [*(point.quality for point in front), front[-1].quality],
        where="post",
        color=MUTED,
        linewidth=1,
        linestyle=(0, (4, 3)),
    )
    for point in points:
        look = point.look
        _whiskers(axes, point)
        axes.plot(
            point.cost,
            point.quality,
            linestyle="",
            marker=look.marker,
            markersize=8,
            clip_on=False,
            markerfacecolor=PAPER if look.hollow else look.colour,
            markeredgecolor=look.colour if look.hollow else PAPER,
            markeredgewidth=1.2 if look.hollow else 0.6,
            zorder=3,
        )


def label_points(axes: Axes, points: Sequence[Point]) -> int:
    """Write names beside the points, once all else is drawn: all of them, or those of the front, or none.

    Returns:
        How many found room; for the others the legend has to do.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    per_point = figure.dpi / 72
    frame = axes.get_window_extent()
    area = Box(*(edge / per_point for edge in (frame.x0, frame.y0, frame.x1, frame.y1)))
    places = [axes.transData.transform((point.cost, point.quality)) / per_point for point in points]
    names = [shortened(point.name, _LONGEST) for point in points]
    sizes = [(text_width(name, TEXT - 1), TEXT * 1.25) for name in names]
    spots = [(float(x), float(y)) for x, y in places]
    whiskers = [
        box for point, spot in zip(points, spots, strict=True) for box in _whisker_boxes(axes, point, spot, per_point)
    ]
    front = _front_boxes(axes, points, per_point)
    kept = pareto_front(points)
    for chosen in (range(len(points)), [n for n, point in enumerate(points) if point in kept]):
        # Over a thin line a name can still be read; over another name or a marker it cannot.
        for lines in ([*whiskers, *front], front, []):
            boxes = place_labels(spots, [sizes[n] for n in chosen], area, lines, chosen)
            if boxes is not None:
                for number, box in zip(chosen, boxes, strict=True):
                    _write(axes, points[number], names[number], spots[number], box)
                return len(boxes)
    return 0


def _write(axes: Axes, point: Point, name: str, spot: tuple[float, float], box: Box) -> None:
    x, y = spot
    side = "left" if box.left > x else "right" if box.right < x else "center"
    anchor = {"left": box.left, "right": box.right, "center": (box.left + box.right) / 2}[side]
    text = axes.annotate(
        name,
        (point.cost, point.quality),
        (anchor - x, (box.bottom + box.top) / 2 - y),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=TEXT - 1,
        color=INK,
        zorder=4,
    )
    text.set_in_layout(False)


def _scale_quality(axes: Axes, points: Sequence[Point]) -> None:
    ends = [end for point in points for end in (point.interval or (point.quality, point.quality))]
    low, high = min(ends), max(ends)
    room = max(0.12 * (high - low), 0.005)
    low, high = max(0.0, low - room), high + room
    axes.set_ylim(low, high)
    axes.set_yticks(steps(low, high, 5))


def _whiskers(axes: Axes, point: Point) -> None:
    if point.interval is not None:
        axes.plot([point.cost] * 2, point.interval, color=point.look.colour, linewidth=1, alpha=0.6, zorder=2)
    if point.cost_spread is not None:
        axes.plot(point.cost_spread, [point.quality] * 2, color=point.look.colour, linewidth=1, alpha=0.6, zorder=2)


def _front_boxes(axes: Axes, points: Sequence[Point], per_point: float) -> list[Box]:
    """The lines of the front: from each point to the right, and up to the next."""
    front: list[tuple[float, float]] = [
        tuple(axes.transData.transform((point.cost, point.quality)) / per_point) for point in pareto_front(points)
    ]
    boxes: list[Box] = []
    for (left, y), (right, top) in pairwise([*front, (axes.bbox.x1 / per_point, front[-1][1])]):
        boxes += [Box(left, y - 1, right, y + 1), Box(right - 1, y, right + 1, top)]
    return boxes


def _whisker_boxes(axes: Axes, point: Point, spot: tuple[float, float], per_point: float) -> list[Box]:
    """The lines of a point's intervals: up and down, and to the sides."""
    (x, y), (low, high) = spot, point.interval or (point.quality, point.quality)
    bottom, top = (float(axes.transData.transform((point.cost, end))[1]) / per_point for end in (low, high))
    fast, slow = point.cost_spread or (point.cost, point.cost)
    left, right = (float(axes.transData.transform((end, point.quality))[0]) / per_point for end in (fast, slow))
    return [Box(x - 1, bottom, x + 1, top), Box(left, y - 1, right, y + 1)]
