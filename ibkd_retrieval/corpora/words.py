"""Words and sentences of a text in any script, also of scripts without spaces between words."""

from __future__ import annotations

import functools
import re
import unicodedata

UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u109d\u1780-\u17d3"  # Burmese and Khmer
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # Chinese characters
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3105-\u312f"  # kana and bopomofo
    "\uac00-\ud7a3"  # Korean
)
"""Ranges of scripts without spaces between words, and of Korean, which attaches endings to words."""

SENTENCE_END = r"(?<=[.!?\u061f\u06d4\u0964\u0965])\s+|(?<=[。！？｡])|(?<=[\u0e01-\u0e4e])\s+(?=[\u0e01-\u0e4e])"
"""A regular expression of what divides sentences on a line. Arabic, Urdu and Hindi have stops of their own. Chinese and
Japanese have no space behind theirs. Thai has no stop, but a space between sentences."""

_IS_UNSPACED = re.compile(f"[{UNSPACED}]")
_LAST_MARK = 0x1F000
"""Beyond it the only combining marks are those that choose among forms of a character."""


@functools.cache
def word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Two patterns: words, with runs of unspaced scripts in group 1, and the characters of such a run."""
    points = (point for point in range(0x300, _LAST_MARK) if unicodedata.category(chr(point)).startswith("M"))
    marks = "".join(map(chr, points))
    letters = rf"[^\W{UNSPACED}]+"
    words = re.compile(rf"([{UNSPACED}][{UNSPACED}{marks}]*)|{letters}(?:[{marks}]+(?:{letters})?)*")
    return words, re.compile(rf"[^{marks}][{marks}]*|[{marks}]+")


def in_words(text: str) -> list[str]:
    r"""Cut a text into words, each with a space behind it. Runs of unspaced scripts are cut into pairs of characters.

    Example:
        >>> in_words("a  boat\n河边的船")
        ['a ', 'boat ', '河边', '的船 ']
    """
    found: list[str] = []
    for word in text.split():
        if _IS_UNSPACED.search(word):
            characters = word_patterns()[1].findall(word)
            found += ("".join(characters[place : place + 2]) for place in range(0, len(characters), 2))
            found[-1] += " "
        else:
            found.append(f"{word} ")
    return found


def can_be_cut(text: str, at: int) -> bool:
    """Whether a text can be cut before the character `at`: in an unspaced script, at its beginning, or at its end."""
    return bool(_IS_UNSPACED.search(text[max(0, at - 1) : at + 1])) and unicodedata.category(text[at])[0] != "M"
