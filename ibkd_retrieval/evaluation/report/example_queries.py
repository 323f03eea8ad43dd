"""Queries that a system lost or won much on, as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ibkd_retrieval.evaluation.compare.quality_records import Example, RankedDocument
from ibkd_retrieval.evaluation.compare.report import DataSetReport


class ShownDocument(NamedTuple):
    """A document in a ranking.

    Attributes:
        document: as it was found.
        judged: what the judgements say of it, in words.
        relevant: whether they call it relevant.
        elsewhere: its rank in the other ranking, from 1; None where that lacks it.
    """

    document: RankedDocument
    judged: str
    relevant: bool
    elsewhere: int | None


class ShownExample(NamedTuple):
    """A query with the rankings of the first system and of another.

    Attributes:
        example: as it was recorded.
        rankings: names of the two systems, each with its first documents.
    """

    example: Example
    rankings: tuple[tuple[str, tuple[ShownDocument, ...]], ...]


class SystemExamples(NamedTuple):
    """The queries of one system: those it lost most on, and those it won most on."""

    system: str
    lost: tuple[ShownExample, ...]
    won: tuple[ShownExample, ...]


def shown_examples(data_set: DataSetReport, baseline: str) -> list[SystemExamples]:
    """The examples of a data set by system, greatest loss and greatest gain first."""
    by_system: dict[str, list[Example]] = {}
    for example in data_set.examples:
        by_system.setdefault(example.system, []).append(example)
    found = []
    for system, examples in by_system.items():
        ordered = sorted(examples, key=lambda each: each.value - each.baseline_value)
        lost = [_shown(each, baseline) for each in ordered if each.value < each.baseline_value]
        won = [_shown(each, baseline) for each in reversed(ordered) if each.value > each.baseline_value]
        if lost or won:
            found.append(SystemExamples(system, tuple(lost), tuple(won)))
    return found


def _shown(example: Example, baseline: str) -> ShownExample:
    first, ours = example.rankings[baseline], example.rankings[example.system]
    return ShownExample(example, ((baseline, _documents(first, ours)), (example.system, _documents(ours, first))))


def _documents(ranking: Sequence[RankedDocument], other: Sequence[RankedDocument]) -> tuple[ShownDocument, ...]:
    ranks = {document.id: rank for rank, document in enumerate(other, 1)}
    return tuple(
        ShownDocument(document, _judged(document.relevance), bool(document.relevance), ranks.get(document.id))
        for document in ranking
    )


def _judged(relevance: int | None) -> str:
    if relevance is None:
        return "not judged"
    if relevance <= 0:
        return "not relevant"
    return "relevant" if relevance == 1 else f"relevant, grade {relevance}"
