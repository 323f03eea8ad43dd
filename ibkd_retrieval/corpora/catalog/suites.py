"""Suites of data sets for one evaluation, each with its own metric."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ibkd_retrieval.corpora import beir
from ibkd_retrieval.corpora.catalog.known_sets import SUITE_SETS, KnownSet
from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, parts_of
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
