"""Suites of data sets, and descriptions of those with a short name: sizes, terms of use and files on disk."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ibkd_retrieval.corpora import beir, irds
from ibkd_retrieval.corpora.catalog.known_sets import SUITE_SETS, KnownSet
from ibkd_retrieval.corpora.catalog.registry import (
    KNOWN_SETS,
    entry_count,
    find_known,
    folder_bytes,
    kept_folder,
    known_set,
    on_disk,
    parts_of,
)
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import absolute
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True)
class SuiteMember:
    """One data set of a suite, ready for `open_corpus` and `open_queries`.

    Attributes:
        name: the short name, or the name of the folder.
        corpus: the spec of the documents.
        queries: the spec of the evaluation queries and their judgements.
        metric: the main metric of its literature.
        relevance_level: the lowest grade that counts as relevant for binary metrics.
        group: the set that the member is a part of, whose parts are averaged before sets are, as BEIR reports
            CQADupStack; its own name where it stands for itself.
    """

    name: str
    corpus: str
    queries: str
    metric: str
    relevance_level: int
    group: str


def _members(set_names: tuple[str, ...]) -> tuple[SuiteMember, ...]:
    members = []
    for name in set_names:
        for each in parts_of(KNOWN_SETS[name]):
            members.append(
                SuiteMember(each.name, each.corpus, each.queries, each.metric, each.relevance_level, group=name)
            )
    return tuple(members)


SUITES: dict[str, tuple[SuiteMember, ...]] = {suite: _members(names) for suite, names in SUITE_SETS.items()}
"""The named suites. Every member is read through ir_datasets."""


def open_suite(spec: str, data_dir: Path | None = None, progress: Progress = SILENT) -> tuple[SuiteMember, ...]:
    """Find the members of a suite. No document is read and nothing is fetched.

    Args:
        spec: the name of a suite, or a folder whose sub-folders are BEIR folders, each a member with the sub-folder's
            name. A sub-folder that holds BEIR folders itself is a group of parts (`cqadupstack/android`). A name that
            is both means the suite; write `./name` for the folder.
        data_dir: where local copies are: a member is read from the BEIR folder `data_dir/<member's name>` if there is
            one, and through ir_datasets if not.
        progress: the display. It shows the sources of members and the folders whose split is not test.

    Returns:
        The members: of a named suite in its own order, of a folder in the order of their names.

    Raises:
        UserError: there is no such suite or folder, a folder holds no BEIR folder, or a member lacks its queries or
            judgements.
    """
    if spec not in SUITES:
        folder = absolute(spec)
        if spec.strip() and folder.is_dir():
            return _members_in(folder, progress)
        raise UserError(f"unknown suite {spec!r}, and there is no folder {folder}: {_advice(spec)}, or a folder.")
    members = SUITES[spec]
    if data_dir is None:
        return members
    root = absolute(str(data_dir))
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: name the one that holds the BEIR folders, or leave it out.")
    placed = tuple(
        _local_member(root / member.name, member.name, member.group, progress)
        if beir.is_beir_folder(root / member.name)
        else member
        for member in members
    )
    found = sum(place is not member for place, member in zip(placed, members, strict=True))
    others = "" if found == len(members) else ", the others come through ir_datasets"
    progress.say(f"{found} of the {len(members)} data sets of {spec} are in {root}{others}")
    return placed


def named_suite(name: str) -> tuple[SuiteMember, ...]:
    """Return the members of a named suite, read through ir_datasets.

    Raises:
        UserError: there is no suite of that name; the sentence has a name like it, or all.
    """
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}: {_advice(name)}.")
    return SUITES[name]


def _advice(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), SUITES, n=1)
    return f"did you mean {close[0]}" if close else f"name one of {', '.join(SUITES)}"


def _members_in(folder: Path, progress: Progress) -> tuple[SuiteMember, ...]:
    if beir.is_beir_folder(folder):
        raise UserError(
            f"{folder} is a single BEIR folder: name the folder it lies in, or evaluate it alone as `queries`."
        )
    members = []
    for each in _folders_in(folder):
        if beir.is_beir_folder(each):
            members.append(_local_member(each, each.name, each.name, progress))
            continue
        members += [
            _local_member(part, f"{each.name}/{part.name}", each.name, progress)
            for part in _folders_in(each)
            if beir.is_beir_folder(part)
        ]
    if not members:
        raise UserError(
            f"{folder} holds no BEIR folder: put each data set into a sub-folder with corpus.jsonl, queries.jsonl and"
            " qrels/test.tsv."
        )
    return tuple(members)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}): check its permissions.") from None


def _local_member(folder: Path, name: str, group: str, progress: Progress) -> SuiteMember:
    known = KNOWN_SETS.get(name, KnownSet(name))
    split = beir.evaluation_split(folder, known.split)
    if split != beir.DEFAULT_SPLIT:
        progress.say(f"{name} is evaluated with its split {split} ({folder})")
    return SuiteMember(name, str(folder), f"{folder}:{split}", known.metric, known.relevance_level, group)


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

    Args:
        suite: name of a suite, such as "beir". None is every data set with a short name.

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
