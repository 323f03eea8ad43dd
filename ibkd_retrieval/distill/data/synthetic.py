"""Queries made of the training documents, so that a student reads short texts too. No language model is used."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.corpora.words import SENTENCE_END, in_words
from ibkd_retrieval.files import atomic_write

SYNTHETIC = "synthetic-queries.jsonl"
"""The file of a run's synthetic queries, in its student's folder. It can be read as training queries."""

KINDS = {"title": 0.2, "sentence": 0.3, "span": 0.3, "keywords": 0.2}
"""How often each kind of query is drawn. Where a kind does not fit a document, a span is taken."""

_SPAN = (4, 12)
_KEYWORDS = (2, 4)
_RAREST = 10
_LONGEST = 32
_SENTENCE_END = re.compile(rf"{SENTENCE_END}|\n+")
_WORD = re.compile(r"[^\W\d_][\w-]+")


class SyntheticQuery(NamedTuple):
    """A query, the document it was made of, and its kind: one of `KINDS`."""

    text: str
    doc_id: str
    kind: str


def synthetic_queries(corpus: Corpus, contents: Iterable[str], each: int, seed: int) -> list[SyntheticQuery]:
    """Make queries of the documents that a student learns from. No two are equal, and none is a whole document.

    Args:
        corpus: the documents.
        contents: contents of those to take.
        each: queries drawn per document.
        seed: random seed of the draws.
    """
    wanted = set(contents)
    frequency: Counter[str] = Counter()
    for document in _once(corpus, wanted):
        frequency.update(set(_words(document.content)))
    generator = np.random.default_rng([seed, 7])
    made: dict[str, SyntheticQuery] = {}
    for document in _once(corpus, wanted):
        for number in generator.choice(len(KINDS), size=each, p=list(KINDS.values())):
            text, kind = _query(list(KINDS)[number], document, frequency, len(wanted), generator)
            if text and text != document.content.strip():
                made.setdefault(text, SyntheticQuery(text, document.doc_id, kind))
    return list(made.values())


def write_queries(queries: Sequence[SyntheticQuery], path: Path) -> None:
    """Write queries as JSONL, one a line with `_id`, `text`, `doc_id` and `kind`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        for number, query in enumerate(queries):
            line = json.dumps({"_id": f"synthetic-{number}"} | query._asdict(), ensure_ascii=False)
            file.write(f"{line}\n".encode("utf-8", "backslashreplace"))


def _once(corpus: Corpus, contents: set[str]) -> Iterator[Document]:
    """The documents with these contents, the first of each."""
    left = set(contents)
    for document in corpus.documents():
        if (content := document.content.strip()) in left:
            left.remove(content)
            yield document


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _query(
    kind: str, document: Document, frequency: Counter[str], documents: int, generator: np.random.Generator
) -> tuple[str, str]:
    """A query of this kind and its kind; a span where the kind does not fit the document."""
    if kind == "title" and document.title.strip():
        return document.title.strip(), kind
    if kind == "sentence":
        sentences = [each.strip() for each in _SENTENCE_END.split(document.text)]
        fitting = [each for each in sentences if _SPAN[0] <= len(in_words(each)) <= _LONGEST]
        if fitting:
            return fitting[int(generator.integers(len(fitting)))], kind
    if kind == "keywords":
        counts = Counter(_words(document.content))
        weights = {word: count * math.log(1 + documents / frequency[word]) for word, count in counts.items()}
        # Of equal weights the first in the document, so that a draw does not depend on the order of a set.
        best = sorted(weights, key=weights.__getitem__, reverse=True)[:_RAREST]
        if len(best) >= _KEYWORDS[0]:
            size = min(len(best), int(generator.integers(_KEYWORDS[0], _KEYWORDS[1] + 1)))
            return " ".join(best[place] for place in generator.choice(len(best), size=size, replace=False)), kind
    words = in_words(document.text)
    size = min(len(words), int(generator.integers(_SPAN[0], _SPAN[1] + 1)))
    start = int(generator.integers(len(words) - size + 1)) if words else 0
    return "".join(words[start : start + size]).strip(), "span"
