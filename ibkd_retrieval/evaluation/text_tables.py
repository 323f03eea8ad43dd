"""Small tables as plain text, HTML, CSV and LaTeX. Special characters in cells are escaped."""

from __future__ import annotations

import csv
import html
import io
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
