"""Which queries `ibkd compare` asks on which corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .compared import PlannedCorpus

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import QuerySet
    from ibkd_retrieval.progress import Progress

_ENOUGH = 0.5
"""Share of the relevant documents that a corpus has to hold for the queries to be about it."""


def open_judged(
    corpora: Sequence[PlannedCorpus], given: Sequence[str], progress: Progress
) -> list[tuple[PlannedCorpus, QuerySet]]:
    """Each corpus with a set of judged queries about it; those given, or those that belong to each corpus.

    Raises:
        UserError: there are none, they have no judgements, or it is not clear which corpus they are about.
    """
    from ibkd_retrieval.corpora.spec import open_queries, queries_for

    if given:
        asked = [open_queries(spec, need_judgements=True, progress=progress) for spec in given]
        return queries_by_corpus(corpora, asked)
    pairs = []
    for corpus in corpora:
        spec = queries_for(corpus.corpus)
        progress.say(f"queries {spec} (those of the corpus; name others with --queries)")
        found = open_queries(spec, need_judgements=True, progress=progress)
        _refuse_unjudged(found)
        pairs.append((corpus, found))
    return pairs


def queries_by_corpus(
    corpora: Sequence[PlannedCorpus], given: Sequence[QuerySet]
) -> list[tuple[PlannedCorpus, QuerySet]]:
    """Each query set with the corpus whose documents it judges, in the order of the corpora.

    Raises:
        UserError: a query set has no judgements or judges documents of no corpus or of several, or a corpus has none.
    """
    from ibkd_retrieval.errors import UserError

    placed = [(_corpus_of(corpora, asked), asked) for asked in given]
    for corpus in corpora:
        if all(each is not corpus for each, _ in placed):
            raise UserError(f"None of the --queries judges documents of {corpus.corpus}: name some that do.")
    return [(corpus, asked) for corpus in corpora for each, asked in placed if each is corpus]


def _corpus_of(corpora: Sequence[PlannedCorpus], asked: QuerySet) -> PlannedCorpus:
    from ibkd_retrieval.errors import UserError

    _refuse_unjudged(asked)
    wanted = {each.doc_id for each in asked.judgements if each.relevance >= asked.relevance_level}
    shares = {corpus.fingerprint: _share_held(corpus, wanted) for corpus in corpora}
    fitting = [corpus for corpus in corpora if shares[corpus.fingerprint] >= _ENOUGH]
    if not fitting:
        raise UserError(
            f"{asked.name} judges documents that are not in {' nor in '.join(corpus.corpus for corpus in corpora)}: "
            "name queries of these corpora."
        )
    if len(fitting) > 1:
        # Collections that number their documents have ids in common.
        fitting = [corpus for corpus in fitting if _root(corpus.corpus) == _root(asked.name)]
    if len(fitting) != 1:
        raise UserError(
            f"{asked.name} could belong to several of the corpora, which have document ids in common: compare on one "
            "corpus at a time."
        )
    return fitting[0]


def _refuse_unjudged(asked: QuerySet) -> None:
    from ibkd_retrieval.errors import UserError

    if not any(each.relevance >= asked.relevance_level for each in asked.judgements):
        raise UserError(
            f"{asked.name} has no judgements of relevant documents: name queries that have, with --queries."
        )


def _share_held(corpus: PlannedCorpus, wanted: set[str]) -> float:
    from ibkd_retrieval.indexing.index import open_index

    index = open_index(corpus.systems[0].asked.folder, memory_limit=0)
    return sum(doc_id in wanted for doc_id in index.present_ids()) / len(wanted)


def _root(name: str) -> str:
    """The corpus that the name of documents or of queries is about: a path without its split, an id as it is."""
    before, colon, split = name.rpartition(":")
    return before if colon and "/" not in split else name


def data_set_names(asked: Sequence[QuerySet]) -> list[str]:
    """Short names of query sets: the last part, with the split where that is needed to tell them apart."""
    short = [Path(_root(each.name)).name if "/" in _root(each.name) else each.name for each in asked]
    split = [
        name if short.count(name) == 1 else f"{name}:{each.name.rpartition(':')[2]}"
        for name, each in zip(short, asked, strict=True)
    ]
    return [name if split.count(name) == 1 else each.name for name, each in zip(split, asked, strict=True)]


def judged_ids(asked: QuerySet) -> frozenset[str]:
    """The queries that somebody judged."""
    return frozenset(judgement.query_id for judgement in asked.judgements)
