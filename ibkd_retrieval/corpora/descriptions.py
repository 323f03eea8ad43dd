"""What is known of a data set before anything of it is fetched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ibkd_retrieval.corpora.catalogue import entry_count
from ibkd_retrieval.corpora.known_sets import KnownSet
from ibkd_retrieval.corpora.on_disk import on_disk
from ibkd_retrieval.corpora.registry import parts_of


@dataclass(frozen=True)
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


def describe(known: KnownSet, home: Path) -> SetDescription:
    """Describe a set from ir_datasets' catalogue and from what is in its home folder."""
    parts = [part for part in parts_of(known) if part.corpus]
    kept = [on_disk(part, home) for part in parts]
    return SetDescription(
        known,
        _total(entry_count(part.corpus, "docs") for part in parts),
        _total(entry_count(part.queries, "queries") for part in parts),
        _total(entry_count(part.queries, "qrels") for part in parts),
        sum(each.documents for each in kept),
        sum(each.queries for each in kept),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    return sum(count for count in found if count is not None) if found and None not in found else None
