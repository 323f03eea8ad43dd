"""Training pairs of stage 2: queries with passages that answer them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.formats import read_lines
from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.data.texts import text_keys
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True)
class TrainingPair:
    """A query with its passages.

    Attributes:
        query: text of the query.
        positives: texts of passages that answer it, at least one.
        negatives: texts of similar passages that do not answer it. May be empty.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairSet:
    """Training pairs, under the name that the user gave."""

    name: str
    pairs: tuple[TrainingPair, ...]

    @property
    def fingerprint(self) -> str:
        """A hex digest of all texts, in order."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for part in ((pair.query,), pair.positives, pair.negatives):
                digest.update(len(part).to_bytes(4, "little") + text_keys(part).tobytes())
        return digest.hexdigest()

    @property
    def has_negatives(self) -> bool:
        """Whether every query has negatives already."""
        return all(pair.negatives for pair in self.pairs)

    def without(self, texts: Collection[str]) -> PairSet:
        """Remove `texts` from the pairs, because they are part of the dev set.

        A pair is dropped if its query is among them, or if no positive is left.

        Raises:
            UserError: no pair is left.
        """
        left_out = {text.strip() for text in texts}
        kept = tuple(
            TrainingPair(
                pair.query,
                positives,
                tuple(text for text in pair.negatives if text not in left_out),
            )
            for pair in self.pairs
            if pair.query not in left_out
            and (positives := tuple(text for text in pair.positives if text not in left_out))
        )
        if not kept:
            raise UserError(
                f"All pairs of {self.name} have their query or passage in the dev set: "
                "give other `pairs` or another `dev`."
            )
        return PairSet(self.name, kept)


def judged_pairs(corpus: Corpus, queries: QuerySet, progress: Progress = SILENT) -> PairSet:
    """The judged queries of a set, with the documents judged relevant to them.

    Queries with the same text are one pair, as in `read_pairs`.

    Raises:
        UserError: no query has a relevant document in the corpus.
    """
    wanted: dict[str, list[str]] = {}
    for judgement in queries.judgements:
        if judgement.relevance >= queries.relevance_level:
            wanted.setdefault(judgement.doc_id, []).append(judgement.query_id)
    found: dict[str, dict[str, None]] = {}
    with progress.task("reading pairs", corpus.expected, "documents") as task:
        for document in corpus.documents():
            task.advance()
            for query_id in wanted.get(document.doc_id, ()):
                if content := document.content.strip():
                    found.setdefault(query_id, {})[content] = None
    answers: dict[str, dict[str, None]] = {}
    for query in queries.queries:
        if query.query_id in found:
            answers.setdefault(query.text.strip(), {}).update(found[query.query_id])
    pairs = tuple(TrainingPair(text, tuple(passages)) for text, passages in answers.items())
    if not pairs:
        raise UserError(
            f"No query of {queries.name} has a relevant passage in {corpus.name}: give `pairs` that are judged on it."
        )
    return PairSet(queries.name, pairs)


def pairs_of(source: Iterable[Any]) -> PairSet:
    """Pairs from Python: (query, passage), or dicts with the keys of `read_pairs`.

    Raises:
        UserError: there is no pair, or an entry is not one.
    """

    def records() -> Iterator[tuple[str, Any]]:
        for number, each in enumerate(source):
            pair = isinstance(each, tuple | list) and len(each) == 2
            yield f"`pairs`, number {number}", {"query": each[0], "passage": each[1]} if pair else each

    found = _joined("pairs from Python", records())
    return replace(found, name=f"in-memory-{found.fingerprint[:12]}")


def read_pairs(path: Path) -> PairSet:
    """Read pairs from a JSONL file with `query`, `passage`, and optionally a list of `negatives`.

    Lines with the same query are one pair with several positives.

    Raises:
        UserError: a line is malformed, or the file has no pair.
    """
    return _joined(str(path), ((f"{path}, line {number}", _parsed(line)) for number, line in read_lines(path)))


def _joined(name: str, records: Iterable[tuple[str, Any]]) -> PairSet:
    positives: dict[str, dict[str, None]] = {}
    negatives: dict[str, dict[str, None]] = {}
    for where, record in records:
        query, passage, others = _pair_of(record, where)
        positives.setdefault(query, {})[passage] = None
        negatives.setdefault(query, {}).update(dict.fromkeys(others))
    if not positives:
        raise UserError(f"{name} holds no pair: give lines such as {_EXAMPLE}.")
    pairs = tuple(
        TrainingPair(query, tuple(texts), tuple(text for text in negatives[query] if text not in texts))
        for query, texts in positives.items()
    )
    return PairSet(name, pairs)


_EXAMPLE = '{"query": "...", "passage": "...", "negatives": ["..."]}'


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _pair_of(record: Any, where: str) -> tuple[str, str, list[str]]:
    try:
        query, passage = record["query"].strip(), record["passage"].strip()
        negatives = [text.strip() for text in record.get("negatives", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: no pair; give a line such as {_EXAMPLE}.") from error
    if not query or not passage:
        raise UserError(f"{where}: the {'passage' if query else 'query'} is empty; give a text or remove the line.")
    return query, passage, [text for text in negatives if text]
