"""The look of figures: colours and markers, text widths, axes, ticks.

Colour tells the encoder and marker the system, so nothing depends on colour alone. The colours follow Okabe and Ito
(Color Universal Design, 2008), darkened or lightened to 3:1 against the page. Simulated for the three kinds of colour
blindness (Machado et al. 2009), any two stay at least 11 CIELAB units apart.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from ibkd_retrieval.errors import MissingPackage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


POINTS_PER_INCH = 72
TEXT = 11.0
"""Size of text in points, which are the units of the SVG."""

SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": TEXT,
    "axes.unicode_minus": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": TEXT - 1,
    "ytick.labelsize": TEXT - 1,
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    # No text is mathematics: a system may have a dollar sign in its name.
    "text.parse_math": False,
}
"""matplotlib's settings while a figure is made and while it is written."""


def require_matplotlib() -> None:
    """Make sure that figures can be drawn.

    Raises:
        MissingPackage: matplotlib or jinja2 is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        if find_spec(package) is None:
            raise MissingPackage(package, "Drawing report.html and report.png", "report")


@contextmanager
def drawing(**further: Any) -> Iterator[None]:
    """Where figures are made and written: this report's settings, and no word of letters that a font lacks.

    Args:
        further: settings of matplotlib, with _ for each dot.
    """
    import matplotlib

    settings = SETTINGS | {name.replace("_", ".", 1): value for name, value in further.items()}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # In the page the browser has other fonts; in the picture a box stands for the letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def blank(width: float, height: float) -> Figure:
    """A figure of `width` x `height` points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), layout="constrained")


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes, draw a grid behind the data, and leave out the frame's upper and right line."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)


def scale_x(axes: Axes, values: Sequence[float], room: float = 1.25) -> None:
    """Scale the x axis to positive values: logarithmic where they span more than a factor of three, else from 0.

    Args:
        axes: whose x axis it is.
        values: to be seen; all above 0.
        room: factor left free on either side of a logarithmic axis.
    """
    low, high = min(values), max(values)
    if high <= 3 * low:
        axes.set_xlim(0, high * room)
        ticks = steps(0, high * room, 5)
    else:
        low, high = low / room, high * room
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        ticks = _round_numbers(low, high)
    axes.set_xticks(ticks, [_tick(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def steps(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers at even distances between `low` and `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    # Rounded, as 3 x 0.1 would otherwise be written with 17 digits.
    return [round(float(tick), 10) for tick in found if low - 1e-9 <= tick <= high + 1e-9]


def _round_numbers(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 6:
            break
    return inside[:: math.ceil(len(inside) / 6)]


def _tick(value: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g}"


def text_width(text: str, points: float = TEXT) -> float:
    """How wide a line of text is at most, in points, whatever sans-serif font shows it."""
    ems = sum(1.0 if unicodedata.east_asian_width(letter) in "WF" or letter in "mMW@…" else 0.62 for letter in text)
    return ems * points


_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font(-family|-size)?: [^;]*;? ?")


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Write a figure as an `svg` element.

    Colours of `VARIABLES` become CSS variables, and the font is the page's. Several figures live in one page: the ids
    that matplotlib refers to are hashes with `name` as salt, and the others are left out.

    Args:
        figure: the figure.
        name: its name, unique in the page, of letters, digits and hyphens.
        title: what a screen reader announces.
        description: what it reads on request.
    """
    drawn = BytesIO()
    with drawing(svg_hashsalt=name):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(drawn.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        # In HTML, svg and its children need no namespace.
        element.tag = element.tag.removeprefix(_SVG)
        if element.tag == "g":
            element.attrib.pop("id", None)
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        if element.tag == "text" or "style" in element.attrib:
            element.set("style", _page_style(element.get("style", ""), element.tag == "text"))
    # Size comes from the page's style; the view box keeps the proportions.
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "figure",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        child.text = text
        root.insert(place, child)
    return ElementTree.tostring(root, encoding="unicode")


def _page_style(style: str, is_text: bool) -> str:
    """A style in the font and the colours of the page."""
    if is_text:
        size = re.search(r"([\d.]+)px", style)
        style = f"font-size: {size[1] if size else 10}px; {_FONT.sub('', style)}"
        # What has no colour of its own would be black in the dark theme.
        style += "" if "fill:" in style else "; fill: var(--ink)"
    return _COLOUR.sub(lambda found: f"var({VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], style)


def marker_svg(look: Look) -> str:
    """A system's marker as a small `svg` element for a legend or a table; it is decoration beside the name."""
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(look.marker)
    path = style.get_path().transformed(style.get_transform())
    codes = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for vertices, code in path.iter_segments(curves=True, simplify=False):
        numbers = "" if codes[int(code)] == "Z" else " ".join(f"{value:.3f}" for value in vertices)
        parts.append(codes[int(code)] + numbers)
    colour = f"var({VARIABLES[look.colour]})"
    paint = f"fill:{'none' if look.hollow else colour};stroke:{colour};stroke-width:.14"
    return (
        '<svg class="marker" viewBox="-0.75 -0.75 1.5 1.5" aria-hidden="true" focusable="false">'
        f'<path d="{" ".join(parts)}" transform="scale(1 -1)" style="{paint}"/></svg>'
    )
