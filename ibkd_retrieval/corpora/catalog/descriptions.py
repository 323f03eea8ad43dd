"""Descriptions of the data sets with a short name: sizes, terms of use and files on disk. Nothing is fetched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ibkd_retrieval.corpora import irds
from ibkd_retrieval.corpora.catalog.known_sets import KnownSet
from ibkd_retrieval.corpora.catalog.on_disk import entry_count, folder_bytes, kept_folder, on_disk
from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, find_known, known_set, parts_of
from ibkd_retrieval.corpora.catalog.suites import named_suite


@dataclasses.dataclass(frozen=True)
class SetDescription:
    """A known set with its sizes. The sizes of a set of parts are sums over its parts.

    Attributes:
        known: the entry in the table.
        documents: the number of documents, None where it is unknown.
        queries: the number of evaluation queries, None where it is unknown.
        judgements: the number of judgements, None where it is unknown.
        documents_on_disk: the number of parts with documents on disk. It is 0 or 1 for a single set.
        queries_on_disk: the number of parts with evaluation queries and judgements on disk.
    """

    known: KnownSet
    documents: int | None
    queries: int | None
    judgements: int | None
    documents_on_disk: int
    queries_on_disk: int

    def as_json(self) -> dict[str, object]:
        """Return the fields and the entry in the table as one object."""
        shown = dataclasses.asdict(self)
        return {**shown.pop("known"), **shown}

    @property
    def corpus_name(self) -> str:
        """The short name of the indexed documents. Several sets may share documents."""
        return (find_known(self.known.corpus) or self.known).name

    @property
    def kept(self) -> str:
        """The data on disk, as in `d q`, or the number of parts, as in `d 2/12`. "" for nothing."""
        of = len(self.known.parts)
        kept = (("d", self.documents_on_disk), ("q", self.queries_on_disk))
        return " ".join(f"{letter} {count}/{of}" if of else letter for letter, count in kept if count)

    def facts(self) -> list[tuple[str, str]]:
        """Return the known facts, each with a label."""
        known = self.known
        counts = [counted(number) for number in (self.documents, self.queries, self.judgements)]
        told: list[tuple[str, str]] = []
        if known.corpus:
            folder = kept_folder(known, irds.home())
            kept = ["documents"] * bool(self.documents_on_disk) + ["queries and judgements"] * bool(
                self.queries_on_disk
            )
            told = [
                ("documents", f"{counts[0]} (ir_datasets {known.corpus})"),
                ("queries", f"{counts[1]} (ir_datasets {known.queries})"),
                ("judgements", counts[2]),
                ("train", known.train),
                ("dev", known.dev),
                ("on disk", f"{' and '.join(kept) or 'nothing'}; {folder_bytes(folder):,} bytes in {folder}"),
            ]
        elif known.parts:
            told = [
                *zip(("documents", "queries", "judgements"), counts, strict=True),
                ("on disk", self.kept or "nothing"),
                ("parts, averaged", ", ".join(known.parts)),
            ]
        own = "they are documents of the corpus, so each leaves its own out of its results (exclude-self)"
        told += [
            ("metric", known.metric),
            ("relevance level", str(known.relevance_level)),
            ("queries themselves", own if known.queries_are_documents else ""),
            ("licence", known.licence),
            ("instruction", known.instruction),
            ("how to get it", known.obtain),
        ]
        return [(label, value) for label, value in told if value]


def datasets(suite: str | None = None) -> tuple[SetDescription, ...]:
    """Describe the data sets with a short name, or the sets of a suite with their parts.

    Raises:
        UserError: there is no suite of that name.

    Example:
        >>> {each.known.name: each.documents for each in datasets("msmarco")}
        {'msmarco': 8841823, 'trec-dl-2019': 8841823, 'trec-dl-2020': 8841823}
    """
    if suite is not None:
        return tuple(describe(KNOWN_SETS[member.name]) for member in named_suite(suite))
    parts = {part for known in KNOWN_SETS.values() for part in known.parts}
    return tuple(describe(known) for known in KNOWN_SETS.values() if known.name not in parts)


def describe(known: KnownSet | str, home: Path | None = None) -> SetDescription:
    """Describe a set from the catalogue of ir_datasets and from its files on disk.

    Args:
        known: the set, or its short name.
        home: the home folder of ir_datasets. None is its default.

    Raises:
        UserError: there is no set of that name.
    """
    entry = known_set(known) if isinstance(known, str) else known
    parts = [part for part in parts_of(entry) if part.corpus]
    kept = [on_disk(part, home or irds.home()) for part in parts]
    return SetDescription(
        entry,
        _total(entry_count(part.corpus, "docs") for part in parts),
        _total(entry_count(part.queries, "queries") for part in parts),
        _total(entry_count(part.queries, "qrels") for part in parts),
        sum(each.documents for each in kept),
        sum(each.queries for each in kept),
    )


def counted(number: int | None) -> str:
    """Format a count. "?" stands for an unknown one."""
    return "?" if number is None else f"{number:,}"


def _total(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    return sum(count for count in found if count is not None) if found and None not in found else None
