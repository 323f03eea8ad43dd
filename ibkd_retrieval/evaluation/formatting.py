"""Numbers and small tables as readable text, HTML, CSV and LaTeX.

An unknown number is a dash, never NaN. Special characters in cells are escaped.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

_LATEX_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def one_line(text: object, kept: str = "") -> str:
    """A value as text in one line: line breaks and other control characters but those `kept` become spaces."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in kept else character
        for character in shown
    )


def latex_escaped(text: str) -> str:
    """Text in one line, with LaTeX's special characters escaped; a tab is a space to LaTeX."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in one_line(text, kept="\t"))


def text_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of aligned columns: the first to the left, the others to the right."""
    lines = [[one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table for notebooks."""

    def line(tag: str, cells: Sequence[object]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"

    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{above}<thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"


def csv_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV with a header line; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue()


def latex_table(header: Sequence[str], blocks: Iterable[Sequence[Sequence[str]]], remark: str = "") -> str:
    """A `booktabs` table with a rule between blocks of rows. Cells are LaTeX; the header and the remark are text."""
    lines = [r"% \usepackage{booktabs}"]
    if remark:
        lines.append(f"% {one_line(remark)}")
    lines += [rf"\begin{{tabular}}{{l{'r' * len(header)}}}", r"\toprule"]
    lines += [rf" & {' & '.join(map(latex_escaped, header))} \\"]
    for block in blocks:
        if block:
            lines += [r"\midrule", *(rf"{' & '.join(row)} \\" for row in block)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


UNKNOWN = "–"
_METRICS = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "recall": "Recall", "precision": "Precision"}


def known(value: float | None) -> float | None:
    """The value; None where it is missing, infinite or not a number."""
    return value if value is not None and math.isfinite(value) else None


def metric_title(name: str) -> str:
    """A metric's name in the field's spelling: nDCG@10 for ndcg@10."""
    base, at, rest = name.partition("@")
    return _METRICS.get(base.lower(), base) + at + rest


def score(value: float | None) -> str:
    """A score between 0 and 1."""
    return UNKNOWN if known(value) is None else f"{value:.4f}"


def share(value: float | None) -> str:
    """A share as percents, to one digit."""
    if value is None or known(value) is None:
        return UNKNOWN
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def exact_share(value: float) -> str:
    """A share with as many digits as it takes to tell it from 100 %."""
    for digits in (1, 2, 3):
        text = f"{100 * value:.{digits}f}"
        if value == 1 or float(text) != 100:
            return f"{text}\N{NO-BREAK SPACE}%"
    return "just under 100\N{NO-BREAK SPACE}%" if value < 1 else "just over 100\N{NO-BREAK SPACE}%"


def shares(low: float, high: float, word: str = "to") -> str:
    """An interval of shares in percent, with as many digits as its width deserves: 71 to 110 %, 98.2 to 99.6 %."""
    width = high - low
    digits = 0 if width > 0.1 else 1 if width > 0.005 else 2
    unit = "\N{NO-BREAK SPACE}%"
    return f"{100 * low:.{digits}f} {word} {100 * high:.{digits}f}{unit}"


def slashed(values: Iterable[float]) -> str:
    """Numbers on one line: 8.60 / 11.2 / 13.8."""
    return "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}".join(plain(value) for value in values)


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval of scores."""
    if bounds is None or any(known(bound) is None for bound in bounds):
        return UNKNOWN
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def signed(value: float | None) -> str:
    """A difference of scores."""
    if value is None or known(value) is None:
        return UNKNOWN
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text.replace("-", "−")


def p_value(value: float | None) -> str:
    """A p value, to four digits."""
    if value is None or known(value) is None:
        return UNKNOWN
    return "< 0.0001" if value < 0.00005 else f"{value:.4f}"


def plain(value: float | None) -> str:
    """A number with about three significant digits: 0.034, 5.61, 14.1, 341, 12,345."""
    if value is None or known(value) is None:
        return UNKNOWN
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def factor(value: float | None) -> str:
    """How many times: 6.1 ×, 34 ×."""
    if value is None or known(value) is None:
        return UNKNOWN
    digits = 0 if value >= 10 else 1 if value >= 0.95 else 2
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}×"


def size(count: float | None) -> str:
    """Bytes in the unit that suits."""
    if count is None or known(count) is None:
        return UNKNOWN
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{plain(count / scale)}\N{NO-BREAK SPACE}{unit}"
    return f"{plain(count)}\N{NO-BREAK SPACE}B"


def count(number: float | None) -> str:
    """Parameters, in millions from a million on."""
    if number is None or known(number) is None:
        return UNKNOWN
    return f"{number / 1e6:.1f}\N{NO-BREAK SPACE}M" if number >= 1e6 else f"{number:,.0f}"


def moment(written: str) -> str:
    """An ISO 8601 moment in UTC to the minute: 2026-11-23 21:17 UTC; anything else as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\dZ", written)
    return f"{found[1]} {found[2]} UTC" if found else written


def counted(number: int, one: str, many: str) -> str:
    """How many there are of something."""
    return f"{number:,} {one if number == 1 else many}"


def shortened(text: str, length: int) -> str:
    """The text with its middle left out where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
