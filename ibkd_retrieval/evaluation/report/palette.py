"""Colours and markers: which system looks how, in both themes, in every figure and table alike.

Colour tells the encoder and marker the system, so nothing hangs on colour alone. The colours follow Okabe and Ito
(Color Universal Design, 2008), darkened or lightened to 3:1 against the page. Simulated for the three kinds of colour
blindness (Machado et al. 2009), any two stay at least 11 CIELAB units apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d4d9df", "#fefefe"
"""Text and axes, lesser text, grid lines, and what lies behind them, in the light theme."""

_SERIES = ("#1f2329", "#0072b2", "#d55e00", "#00563f", "#cc66a6")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "*", "h")
_LINES = ("-", "--", "-.", ":")

VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES)},
}
"""The CSS variable that takes the place of each colour in an inline SVG, so that it follows the page's theme."""

LIGHT = {variable: colour for colour, variable in VARIABLES.items()}
DARK = dict(
    zip(
        LIGHT,
        ("#e6edf3", "#9aa5b1", "#343c46", "#14181d", "#e6edf3", "#56b4e9", "#e07b2a", "#2fa37c", "#e48ac4"),
        strict=True,
    )
)
"""Values of the CSS variables in each theme."""


class Look(NamedTuple):
    """How a system is drawn.

    Attributes:
        colour: hexadecimal, of the light theme; a key of `VARIABLES`.
        marker: matplotlib's name of it.
        line: matplotlib's name of the line style.
        hollow: the marker is an outline.
    """

    colour: str
    marker: str
    line: str
    hollow: bool


def looks(encoders: Sequence[str]) -> list[Look]:
    """A look for each system, no two alike up to 24 systems.

    Args:
        encoders: what names the encoder of each system; systems of one encoder share a colour.
    """
    order = list(dict.fromkeys(encoders))
    found = []
    for number, encoder in enumerate(encoders):
        earlier = encoders[:number].count(encoder)
        found.append(
            Look(
                colour=_SERIES[order.index(encoder) % len(_SERIES)],
                marker=_MARKERS[number % len(_MARKERS)],
                line=_LINES[(earlier + order.index(encoder) // len(_SERIES)) % len(_LINES)],
                hollow=number // len(_MARKERS) % 2 == 1,
            )
        )
    return found
