"""What is known of the data sets with a short name: sizes, terms of use, and what is on disk. Nothing is fetched."""

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
    """A known set with its sizes, of a set of parts those of all parts together.

    Attributes:
        known: its entry in the table.
        documents: number of documents, None where nothing tells.
        queries: number of evaluation queries, likewise.
        judgements: number of judgements, likewise.
        documents_on_disk: how many of its parts have their documents on disk; of a single set 0 or 1.
        queries_on_disk: likewise for evaluation queries with their judgements.
    """

    known: KnownSet
    documents: int | None
    queries: int | None
    judgements: int | None
    documents_on_disk: int
    queries_on_disk: int

    def as_json(self) -> dict[str, object]:
        """Everything above and the entry in the table, in one object."""
        shown = dataclasses.asdict(self)
        return {**shown.pop("known"), **shown}

    @property
    def corpus_name(self) -> str:
        """The short name under which the documents are indexed: other sets may have the same documents."""
        return (find_known(self.known.corpus) or self.known).name

    @property
    def kept(self) -> str:
        """What is on disk, as in `d q`, or in how many parts, as in `d 2/12`; "" where nothing is."""
        of = len(self.known.parts)
        kept = (("d", self.documents_on_disk), ("q", self.queries_on_disk))
        return " ".join(f"{letter} {count}/{of}" if of else letter for letter, count in kept if count)

    def facts(self) -> list[tuple[str, str]]:
        """Each thing that is known, with what it is called."""
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
    """Describe the data sets that go by a short name, or those of a suite with the parts of its sets.

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
    """Describe a set from ir_datasets' catalogue and from what is in its home folder.

    Args:
        known: the set, or its short name.
        home: where ir_datasets keeps its files; by default its own place.

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
    """A count for people; "?" where it is not known."""
    return "?" if number is None else f"{number:,}"


def _total(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    return sum(count for count in found if count is not None) if found and None not in found else None
