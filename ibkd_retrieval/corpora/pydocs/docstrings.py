"""From a docstring to a pair of texts that belong together: its summary and the rest of it."""

from __future__ import annotations

import inspect
import re

MIN_SUMMARY_WORDS = 3
MAX_SUMMARY_WORDS = 40
MIN_BODY_WORDS = 15

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_SIGNATURE = re.compile(r"(?:[\w.\[\]*]+\s*[,=]\s*)*[\w.]+\(.*\)\s*(->.*|:)?", re.DOTALL)
_SECTION = re.compile(
    r"(args|arguments|attributes|example|examples|keyword args|keyword arguments|keywords|note|notes|params|parameters"
    r"|raises|references|return|returns|see also|usage|warning|warnings|yields)\s*(:|\n\s*[-=~]{3,})",
    re.IGNORECASE,
)
_NOT_PROSE = (">>>", "...", ":", "@", "* ", "- ", "+", "|", "#", "{", "[", "<", "$", "%", "r'", 'r"')
_RULED_LINE = re.compile(r"[-=~*#^\"'`+_.]{3,}")
_ROLE = re.compile(r"(?::[a-zA-Z][\w:+.-]*:)`([^`]*)`")
_EXPLICIT_LINK = re.compile(r"^(.*?)\s*<[^<>]*>$")
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\]\([^()\s]+\)")
_BACKTICKED = re.compile(r"`+([^`]*)`+_{0,2}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_STRONG = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_POINTS_ELSEWHERE = re.compile(
    r"(alias (for|of)|deprecated|docstring inherited|inherit|internal (function|helper|method|use)|same as|refer to"
    r"|see (also|the|base|documentation)\b|see [:`]|todo|fixme|overrid|like |equivalent to|helper|getter|setter)",
    re.IGNORECASE,
)
_LICENCE = re.compile(r":copyright:|:license:|copyright\b|licensed under", re.IGNORECASE)


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """Split a docstring into its summary, on one line without markup, and the rest.

    What stands above the summary is dropped: the thing's name or signature, a directive; so are the line under a
    heading and copyright notices.

    Returns:
        (summary, body), or None where the two would make no good query and document: fewer than two paragraphs,
        a summary of fewer than 3 words or more than 40, one that only points elsewhere ("Alias for ...") or leads
        into a list, a body of fewer than 15 words, or a body that begins with the summary.
    """
    paragraphs = [part for part in _BLANK_LINES.split(inspect.cleandoc(docstring).strip()) if part.strip()]
    paragraphs = [part for part in paragraphs if not _LICENCE.match(part.strip())]
    while paragraphs and _is_preamble(paragraphs[0].strip()):
        paragraphs.pop(0)
    if len(paragraphs) < 2:
        return None
    lines = [line.strip() for line in paragraphs[0].splitlines()]
    if len(lines) > 1 and _SIGNATURE.fullmatch(lines[0]):
        lines = lines[1:]
    first = "\n".join(line for line in lines if not _RULED_LINE.fullmatch(line))
    if first.startswith(_NOT_PROSE) or _SECTION.match("\n".join(lines)) or _POINTS_ELSEWHERE.match(first):
        return None
    if first.endswith(":") or "*optional*" in first or re.search(r"\n\s*(:|@|>>>|[-*] )", first):
        return None
    summary = plain_text(first)
    body = "\n\n".join(paragraphs[1:])
    if len(_WORD.findall(summary)) < MIN_SUMMARY_WORDS or len(summary.split()) > MAX_SUMMARY_WORDS:
        return None
    if len(_WORD.findall(body)) < MIN_BODY_WORDS or normalised(body).startswith(normalised(summary)):
        return None
    return summary, body


def plain_text(text: str) -> str:
    """Join `text` to one line and drop its reStructuredText and Markdown markup, keeping the words."""
    text = " ".join(text.split())
    text = _ROLE.sub(lambda match: _link_text(match[1]), text)
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _BACKTICKED.sub(lambda match: _link_text(match[1]), text)
    return _STRONG.sub(r"\1", text).strip()


def normalised(text: str) -> str:
    """`text` in lower case with only its letters and digits: equal texts differ in layout at most."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _is_preamble(paragraph: str) -> bool:
    words = [word for word in paragraph.split() if not _RULED_LINE.fullmatch(word)]
    return len(words) < 2 or paragraph.startswith((".. ", "!!! ")) or _SIGNATURE.fullmatch(paragraph) is not None


def _link_text(content: str) -> str:
    match = _EXPLICIT_LINK.match(content)
    return (match[1] if match and match[1] else content).lstrip("~!")
