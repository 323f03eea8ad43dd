"""Where the names of points go, so that no two overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple


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
