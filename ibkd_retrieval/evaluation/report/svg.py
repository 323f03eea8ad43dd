"""A figure as SVG that stands inside an HTML page: text as text, colours that follow the page, names of its own."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ibkd_retrieval.evaluation.report.canvas import VARIABLES, Look, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#([\w.-]+)")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font(-family|-size)?: [^;]*;? ?")


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Write a figure as an `svg` element.

    Colours of `VARIABLES` become CSS variables, the font is the page's, and every id begins with `name`, so that
    several figures live in one page.

    Args:
        figure: to draw.
        name: unique in the page, of letters, digits and hyphens.
        title: what a screen reader announces.
        description: what it reads on request.
    """
    drawn = BytesIO()
    with drawing():
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(drawn.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}metadata" or child.tag == f"{_SVG}style":
                parent.remove(child)
    _follow_the_page(root)
    _make_names_unique(root, name)
    # Size comes from the page's style; the view box keeps the proportions.
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("class", "figure")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{_SVG}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return _markup(root)


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


def _follow_the_page(root: ElementTree.Element) -> None:
    for element in root.iter():
        style = element.get("style")
        if style is None:
            continue
        if element.tag == f"{_SVG}text":
            size = re.search(r"([\d.]+)px", style)
            style = _FONT.sub("", style)
            style = f"font-size: {size.group(1) if size else 10}px; {style}"
        style = _COLOUR.sub(lambda found: f"var({VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], style)
        element.set("style", style)
    for element in root.iter(f"{_SVG}text"):
        # What has no colour of its own would be black in the dark theme.
        if "fill:" not in element.get("style", ""):
            element.set("style", f"{element.get('style', '')}; fill: var(--ink)")


def _make_names_unique(root: ElementTree.Element, name: str) -> None:
    used = set()
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == _LINK or "url(#" in value:
                used.update(_REFERENCE.findall(value))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for attribute, value in list(element.attrib.items()):
            if attribute == _LINK:
                del element.attrib[attribute]
                element.set("href", value.replace("#", f"#{name}-"))
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))


def _markup(root: ElementTree.Element) -> str:
    for element in root.iter():
        # In HTML, svg and its children need no namespace.
        element.tag = element.tag.removeprefix(_SVG)
    return ElementTree.tostring(root, encoding="unicode")
