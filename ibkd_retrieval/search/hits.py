"""The results of one query: as a sequence, a table or JSON, compared with others, and with snippets."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.corpora.words import can_be_cut, word_patterns
from ibkd_retrieval.search.runs import Hit

if TYPE_CHECKING:
    import pandas as pd


_WORD = re.compile(r"\w+")
_UNSHOWN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CUT = "…"
# Words so common that sharing them with the query means nothing.
_COMMON_WORDS = (
    "a an and are as at be by can do does for from how i in into is it its of on or that the this to was what when "
    "where which who why will with you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())


class Snippet(NamedTuple):
    """A passage on one line. `matches` are the (start, end) positions in `text` of words that the query has too."""

    text: str
    matches: tuple[tuple[int, int], ...]


class _Match(NamedTuple):
    start: int
    end: int
    term: str


def snippet(document: Document, query: str, width: int = 200) -> Snippet:
    """Cut out the window of whole words that shares most distinct terms with the query.

    In scripts without spaces between words, the terms are pairs of characters.

    Case and a plural s do not count. Of equally good windows the one with more matches wins, then the one whose matches
    are closer together, then the earlier one. White space becomes single spaces. Control characters, characters that
    change the direction of text, and terminal escapes are dropped, so that a document cannot disturb a terminal. An
    ellipsis marks each end that was cut.

    Args:
        document: the document. Its text is read, or its title if it has no text.
        query: the query.
        width: maximum length of the snippet in characters, at least 20.
    """
    width = max(width, 20)
    text = one_line(document.text) or one_line(document.title)
    terms = _terms(query)
    matches = list(_matches(text, terms))
    if len(text) <= width:
        return Snippet(text, tuple((match.start, match.end) for match in matches))
    room = width - 2 * len(_CUT)
    first, last = _best_span(matches, room)
    start, end = _widen(text, first, last, room)
    before, after = (_CUT if start > 0 else ""), (_CUT if end < len(text) else "")
    shift = len(before) - start
    inside = [(match.start + shift, match.end + shift) for match in matches if start <= match.start < match.end <= end]
    return Snippet(before + text[start:end] + after, tuple(inside))


def one_line(text: str) -> str:
    """The text on one line, without control characters, terminal escapes and changes of direction."""
    return _UNSHOWN.sub(" ", _ESCAPE.sub(" ", text)).strip()


def _normal(word: str) -> str:
    word = word.casefold()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _terms(query: str) -> frozenset[str]:
    words = {word[0].casefold() for word in word_patterns()[0].finditer(query)}
    return frozenset(itertools.chain.from_iterable(_parts(word) for word in words - _COMMON or words))


def _parts(word: str) -> list[str]:
    """A word as a list, and a run of characters of an unspaced script as its overlapping pairs."""
    if not can_be_cut(word, 0):
        return [_normal(word)]
    characters = word_patterns()[1].findall(word)
    return [first + second for first, second in itertools.pairwise(characters)] or characters


def _matches(text: str, terms: frozenset[str]) -> Iterator[_Match]:
    """The words of a text that are terms. Of unspaced scripts, the longest runs whose parts are terms."""
    for word in (_WORD if text.isascii() else word_patterns()[0]).finditer(text):
        if word.lastindex is None:
            if _normal(word[0]) in terms:
                yield _Match(*word.span(), _normal(word[0]))
            continue
        characters = word_patterns()[1].findall(word[0])
        places = list(itertools.accumulate(map(len, characters), initial=word.start()))
        start = end = word.start()
        for number, first in enumerate(characters):
            pair = characters[number : number + 2]
            if "".join(pair) in terms:
                reach = places[number + len(pair)]
            elif first in terms:
                reach = places[number + 1]
            else:
                continue
            if places[number] > end:
                if end > start:
                    yield _Match(start, end, text[start:end])
                start = places[number]
            end = max(end, reach)
        if end > start:
            yield _Match(start, end, text[start:end])


def _best_span(matches: list[_Match], room: int) -> tuple[int, int]:
    """The start and end of the best run of matches that fits into `room` characters. (0, 0) if nothing matches."""
    best, best_key = (0, 0), (0, 0, 0)
    counts: Counter[str] = Counter()
    left = 0
    for right, match in enumerate(matches):
        counts[match.term] += 1
        while left < right and match.end - matches[left].start > room:
            counts[matches[left].term] -= 1
            left += 1
        start = matches[left].start
        key = (sum(count > 0 for count in counts.values()), right - left + 1, start - match.end)
        if key > best_key or best_key == (0, 0, 0):
            best, best_key = (start, match.end), key
    return best


def _widen(text: str, first: int, last: int, room: int) -> tuple[int, int]:
    """Grow [first, last) to whole words, with as much text as fits. A third of the free space is before the matches."""
    if last - first >= room:
        return first, first + room
    start = max(0, first - (room - (last - first)) // 3)
    end = min(len(text), start + room)
    start = max(0, end - room)
    if start > 0 and text[start - 1] != " " and not can_be_cut(text, start):
        space = text.find(" ", start, first)
        start = space + 1 if space >= 0 else first
    if end < len(text) and text[end] != " " and not can_be_cut(text, end):
        space = text.rfind(" ", last, end)
        end = space if space > 0 else last or end
    return start, len(text[:end].rstrip())


OVERLAP = 10
"""Number of results that are compared."""


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """A hit as JSON types. Title and text are empty if the index stores none. Missing fields are left out."""
    document = hit.document
    shown = {
        "rank": hit.rank,
        "score": hit.score,
        "id": hit.doc_id,
        "title": document.title if document else "",
        "text": document.text if document else "",
    }
    return shown | {"fields": dict(document.fields)} if document and document.fields else shown


def overlap(first: Sequence[Hit], other: Sequence[Hit]) -> tuple[int, float]:
    """The overlap@k of two results, with its depth k of at most ten."""
    depth = max(1, min(OVERLAP, max(len(first), len(other))))
    ours, theirs = ({hit.doc_id for hit in hits[:depth]} for hits in (first, other))
    return depth, len(ours & theirs) / depth


def moves(first: Sequence[Hit], other: Sequence[Hit]) -> list[int | None]:
    """How many ranks each hit of `other` is above its rank in `first`. Below 0 is lower, None is not in `first`."""
    ranks = {hit.doc_id: hit.rank for hit in first}
    return [ranks[hit.doc_id] - hit.rank if hit.doc_id in ranks else None for hit in other]


@dataclass(frozen=True, repr=False)
class Hits(Sequence[Hit]):
    """The best documents for one query, best first.

    Attributes:
        query: the query text, or "" for a vector.
        hits: the documents found, with their texts.
        name: name of the index.
        documents: number of documents in the index.
        milliseconds: total time, with encoding and reading of texts.
    """

    query: str
    hits: tuple[Hit, ...]
    name: str
    documents: int
    milliseconds: float

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, place: int) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[place]

    def summary(self) -> str:
        """The number of hits and documents, and the time."""
        return f"{len(self.hits)} of {self.documents:,} documents in {self.milliseconds:.1f} ms"

    def to_json(self) -> dict[str, Any]:
        """The time and the hits as JSON types."""
        return {"milliseconds": round(self.milliseconds, 2), "hits": [hit_as_json(hit) for hit in self.hits]}

    def to_pandas(self) -> pd.DataFrame:
        """A table with the columns rank, score, id, title and text, and a column for each field of the documents."""
        import pandas as pd

        rows = [hit_as_json(hit) for hit in self.hits]
        columns = ["rank", "score", "id", "title", "text"]
        shown = [row | row.pop("fields", {}) for row in rows]
        return pd.DataFrame(shown, columns=list(dict.fromkeys([*columns, *(name for row in shown for name in row)])))

    def __repr__(self) -> str:
        lines = [f"<{self.summary()} for {one_line(self.query)!r}>"]
        for hit in self.hits:
            title, passage = _shown(hit, self.query, 100)
            lines.append(f"{hit.rank:>3}  {hit.score:.4f}  {one_line(hit.doc_id)}  {title}".rstrip())
            lines += [f"     {passage}"] if passage else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for hit in self.hits:
            cells = (str(hit.rank), f"{hit.score:.4f}", one_line(hit.doc_id), *_shown(hit, self.query, 200))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{name}</th>" for name in ("rank", "score", "id", "title", "passage"))
        caption = escape(f"{one_line(self.query)} · {self.summary()}")
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def _shown(hit: Hit, query: str, width: int) -> tuple[str, str]:
    document = hit.document
    return ("", "") if document is None else (one_line(document.title), snippet(document, query, width).text)
