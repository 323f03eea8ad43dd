"""The embedded corpus: the documentation of the Python packages installed on this machine.

One document for each public module, class, function and method whose docstring has two or more paragraphs. Its query is
the summary, its text the rest; it has no title, since the name would give the query away. Source files are read, never
imported. Whole top-level packages belong to either the train or the test split, by a hash of their name, so a package
stays on its side whatever else is installed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ibkd_retrieval.corpora.pydocs.cache import scan_installed
from ibkd_retrieval.corpora.pydocs.docstrings import normalised
from ibkd_retrieval.corpora.pydocs.names import public_definitions
from ibkd_retrieval.corpora.pydocs.sources import Definition, installed_roots
from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

SPLITS = ("train", "test")
TEST_SHARE = 0.25
_SALT = b"ibkd pydocs 1:"

# The last result of this process. A corpus and its queries are usually read one after the other.
_entries_read: dict[tuple[Path, ...], tuple[Entry, ...]] = {}


class Entry(NamedTuple):
    """A documented definition. `summary` is empty where another document has the same, so it is no query."""

    doc_id: str
    summary: str
    text: str


def is_pydocs(spec: str) -> bool:
    """Whether a corpus or queries spec means this corpus."""
    return spec.partition(":")[0] == "pydocs"


def open_pydocs(spec: str, progress: Progress = SILENT, roots: Sequence[Path] | None = None) -> Corpus:
    """Open the documents of `pydocs`, `pydocs:train` or `pydocs:test`, sorted by id.

    Args:
        spec: one of the three names.
        progress: where to report the reading of source files, which takes a while the first time.
        roots: folders of packages to read instead of this interpreter's.

    Raises:
        UserError: the split is unknown, or no package there has documentation.
    """
    entries = _entries_of(spec, progress, roots)
    return Corpus(spec, len(entries), lambda: (Document(entry.doc_id, entry.text) for entry in entries))


def read_pydocs_queries(spec: str, progress: Progress = SILENT, roots: Sequence[Path] | None = None) -> QuerySet:
    """Return the summaries of a split as queries. The relevant document of each is its source.

    `pydocs` means `pydocs:test`: the summaries of training packages are for training.

    Raises:
        UserError: as for `open_pydocs`.
    """
    name = "pydocs:test" if spec == "pydocs" else spec
    entries = [entry for entry in _entries_of(name, progress, roots) if entry.summary]
    # The ids differ from document ids, because some tools drop a document with the id of its query.
    queries = tuple(Query(f"q:{entry.doc_id}", entry.summary) for entry in entries)
    judgements = tuple(Judgement(f"q:{entry.doc_id}", entry.doc_id, 1) for entry in entries)
    return QuerySet(name, queries, judgements)


def split_of(package: str) -> str:
    """Return the split of a top-level package, by the SHA-256 of its name alone."""
    number = int.from_bytes(hashlib.sha256(_SALT + package.encode()).digest()[:8], "big")
    return "test" if number < TEST_SHARE * 2**64 else "train"


def select_entries(definitions: Iterable[tuple[str, Definition]]) -> tuple[Entry, ...]:
    """Choose the documents: one per id and one per text, sorted by id.

    Of several that share an id a class or function wins over a module; of several with the same text, but for layout,
    the first by id. Documents with different texts and the same summary all stay, without their summary.
    """
    ordered = sorted(definitions, key=lambda item: (item[0], item[1].name == "", item[1]))
    ids: set[str] = set()
    texts: set[bytes] = set()
    kept: list[tuple[str, Definition, str]] = []
    for doc_id, definition in ordered:
        text = hashlib.sha256(normalised(definition.body).encode("utf-8", "replace")).digest()
        if doc_id not in ids and text not in texts:
            ids.add(doc_id)
            texts.add(text)
            kept.append((doc_id, definition, normalised(definition.summary)))
    count = Counter(summary for _, _, summary in kept)
    return tuple(Entry(doc_id, d.summary if count[summary] == 1 else "", d.body) for doc_id, d, summary in kept)


def _entries_of(spec: str, progress: Progress, roots: Sequence[Path] | None) -> tuple[Entry, ...]:
    _, colon, split = spec.partition(":")
    if colon and split not in SPLITS:
        raise UserError(f"pydocs has no split {split!r}: name pydocs, pydocs:train or pydocs:test.")
    entries = _read_entries(tuple(installed_roots() if roots is None else roots), progress)
    chosen = tuple(e for e in entries if not colon or split_of(e.doc_id.partition(".")[0]) == split)
    if not chosen:
        raise UserError(f"{spec}: no documented Python package is installed on its side; name another `corpus`.")
    return chosen


def _read_entries(roots: tuple[Path, ...], progress: Progress) -> tuple[Entry, ...]:
    if roots not in _entries_read:
        _entries_read.clear()
        _entries_read[roots] = select_entries(public_definitions(scan_installed(roots, progress)))
    return _entries_read[roots]
