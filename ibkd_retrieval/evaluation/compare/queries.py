"""Match query sets with the corpora that they are judged on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ibkd_retrieval.corpora.records import Document, Query, QuerySet
from ibkd_retrieval.corpora.spec import Source, open_queries, queries_for
from ibkd_retrieval.corpora.words import SENTENCE_END, in_words
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.plan import PlannedCorpus
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.progress import Progress

DOCUMENTS = "documents"
"""The name of the queries that are made of the documents themselves."""

MOST_QUESTIONS = 200
_TITLE_WORDS, _MOST_WORDS = 3, 40
_SENTENCE_END = re.compile(rf"{SENTENCE_END}|\n\s*\n")
_ENOUGH = 0.5
"""Share of the relevant documents that a corpus has to hold for the queries to be about it."""


def open_query_sets(
    corpora: Sequence[PlannedCorpus], given: Sequence[Source], qrels: Sequence[Source], progress: Progress
) -> list[tuple[PlannedCorpus, QuerySet]]:
    """Open the query set of each corpus.

    Args:
        corpora: the corpora.
        given: query sets. Either all have judgements or none. None takes the queries of each corpus, and `DOCUMENTS`
            makes questions of its documents.
        qrels: judgements that replace those of the queries, one for each query set.
        progress: receives the names of the query sets.

    Raises:
        UserError: there are no queries, some have no judgements, or their corpus is not clear.
    """
    if list(given) == [DOCUMENTS]:
        if qrels:
            raise UserError("`qrels` are judgements of queries, and `queries` documents has none: give one of them.")
        return [(corpus, document_questions(corpus)) for corpus in corpora]
    sources: list[Source] = list(given)
    for corpus in corpora if not given else ():
        sources.append(queries_for(corpus.corpus))
        progress.say(f"queries {sources[-1]} (those of the corpus; name others as `queries`)")
    if qrels and len(qrels) != len(sources):
        raise UserError(
            f"There are {len(qrels)} `qrels` for {len(sources)} sets of `queries`: give judgements for each, in the "
            "same order."
        )
    judgements: list[Source | None] = [*qrels] or [None] * len(sources)
    asked = [
        open_queries(source, each is not None or not _may_lack_judgements(source), progress, qrels=each)
        for source, each in zip(sources, judgements, strict=True)
    ]
    if any(each.judgements for each in asked):
        for each in asked:
            _refuse_unjudged(each)
    elif len(corpora) > 1 and given:
        raise UserError(
            f"{asked[0].name} has no judgements, which say which of the corpora it is about: compare on one corpus at "
            "a time, or give `qrels`."
        )
    if given and asked[0].judgements:
        return queries_by_corpus(corpora, asked)
    if not given:
        return list(zip(corpora, asked, strict=True))
    return [(corpora[0], each) for each in asked]


def document_questions(corpus: PlannedCorpus, most: int = MOST_QUESTIONS) -> QuerySet:
    """Make questions of documents, evenly spaced in the corpus: each a title, or else a first sentence.

    A query has the id of its document, which is no answer to it.

    Args:
        corpus: the corpus. The documents are those that its first index stores.
        most: the most questions.

    Raises:
        UserError: the index stores no text.
    """
    folder = corpus.systems[0].source.folder
    index = open_index(folder, memory_limit=0)
    rows = range(index.manifest.rows) if index.present is None else np.flatnonzero(index.present).tolist()
    questions: dict[str, Query] = {}
    for place in np.linspace(0, len(rows), min(most, len(rows)), endpoint=False, dtype=np.int64).tolist():
        document = index.document(rows[place])
        text = _question(document)
        if text:
            questions.setdefault(text, Query(document.doc_id, text))
    if not questions:
        raise UserError(f"{folder} stores no text to make questions of: name `queries`.")
    return QuerySet(f"{corpus.corpus}:{DOCUMENTS}", tuple(questions.values()), (), queries_are_documents=True)


def _question(document: Document) -> str:
    """A title of several words, or else the first sentence."""
    if len(in_words(document.title)) >= _TITLE_WORDS:
        return document.title
    return "".join(in_words(_SENTENCE_END.split(document.text.strip(), maxsplit=1)[0])[:_MOST_WORDS]).strip()


def _may_lack_judgements(source: Source) -> bool:
    """Whether a source may be a mere list of questions: a file, or objects. Data sets have judgements."""
    return not isinstance(source, str | os.PathLike) or Path(source).expanduser().is_file()


def queries_by_corpus(
    corpora: Sequence[PlannedCorpus], given: Sequence[QuerySet]
) -> list[tuple[PlannedCorpus, QuerySet]]:
    """Each query set with the corpus whose documents it judges, in the order of the corpora.

    Raises:
        UserError: a query set has no judgements or judges documents of no corpus or of several, or a corpus has none.
    """
    placed = [(_corpus_of(corpora, asked), asked) for asked in given]
    for corpus in corpora:
        if all(each is not corpus for each, _ in placed):
            raise UserError(f"None of the `queries` judges documents of {corpus.corpus}: name some that do.")
    return [(corpus, asked) for corpus in corpora for each, asked in placed if each is corpus]


def _corpus_of(corpora: Sequence[PlannedCorpus], asked: QuerySet) -> PlannedCorpus:

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

    if not any(each.relevance >= asked.relevance_level for each in asked.judgements):
        raise UserError(
            f"{asked.name} has no judgements of relevant documents: give others as `queries`, or judgements as `qrels`."
        )


def _share_held(corpus: PlannedCorpus, wanted: set[str]) -> float:

    index = open_index(corpus.systems[0].source.folder, memory_limit=0)
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
    """Ids of the queries that somebody judged."""
    return frozenset(judgement.query_id for judgement in asked.judgements)
