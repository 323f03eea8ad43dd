"""Tokenisation for BM25: runs of letters and digits, and character pairs in scripts without spaces.

Texts are compared in Unicode's form NFKC, so that a letter and its accent are one whether they are written as one
character or as two, and so are wide and narrow forms. A word is a run of at least two letters or digits with their
combining marks.

Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words, and Korean attaches endings to them. Runs
of such characters become their overlapping pairs, as in Lucene's CJKAnalyzer. Documents have the single characters
too, so that a question of one character finds them.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u109d\u1780-\u17d3"  # Burmese and Khmer
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # Chinese characters
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3105-\u312f"  # kana and bopomofo
    "\uac00-\ud7a3"  # Korean
)
_LAST_MARK = 0x1F000
"""Beyond it there are no combining marks but those that choose among forms of a character."""
_ASCII = re.compile(r"[a-z0-9_]{2,}")


def words_of_document(text: str) -> list[str]:
    """The words of a document, in lower case."""
    return _words(text, singles=True)


def words_of_query(text: str) -> list[str]:
    """The words of a query, in lower case: of unspaced scripts pairs only, unless a character stands alone."""
    return _words(text, singles=False)


def _words(text: str, singles: bool) -> list[str]:
    text = text.lower()
    if text.isascii():
        return _ASCII.findall(text)
    text = unicodedata.normalize("NFKC", text).lower()
    pattern, characters = _patterns()
    found: list[str] = []
    for match in pattern.finditer(text):
        run = match[0]
        if match.lastindex is None:
            found += [run] * (len(run) > 1)
            continue
        parts = characters.findall(run)
        if singles or len(parts) == 1:
            found += parts
        found += [first + second for first, second in itertools.pairwise(parts)]
    return found


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Finds words, runs of unspaced scripts in group 1; and finds the characters of such a run with their marks."""
    points = (point for point in range(0x300, _LAST_MARK) if unicodedata.category(chr(point)).startswith("M"))
    marks = "".join(map(chr, points))
    letters = rf"[^\W{_UNSPACED}]+"
    words = re.compile(rf"([{_UNSPACED}][{_UNSPACED}{marks}]*)|{letters}(?:[{marks}]+(?:{letters})?)*")
    return words, re.compile(rf"[^{marks}][{marks}]*|[{marks}]+")
