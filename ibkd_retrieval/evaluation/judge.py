"""A model as judge: its opinion of the first results of several systems.

A cross-encoder reads query and document together. An encoder compares their vectors. Neither replaces people:
docs/compare.md says how far such an opinion can be trusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.cross_encoder import PairScorer, is_cross_encoder, load_pair_scorer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.search.runs import Run

JUDGED_RESULTS = 10
"""Results per query and system that a judge grades."""

OPINION = f"judge@{JUDGED_RESULTS}"
"""The name of the figure: nDCG at ten, with the model's grades in the place of people's."""

Model = str | os.PathLike[str] | PairScorer | Encoder
Grades = NDArray[np.float64]
Content = Callable[[str], str]
_QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class Judge:
    """A model that grades documents for queries.

    Attributes:
        name: the name of the model.
        kind: "cross-encoder" or "encoder".
        model: the loaded model.
    """

    name: str
    kind: str
    model: PairScorer | Encoder


def open_judge(model: Model, device: str = "auto") -> Judge:
    """Load a model as judge: a cross-encoder with one score, or else an encoder.

    Raises:
        UserError: there is no such model, or it is neither.
    """
    if isinstance(model, PairScorer):
        return Judge(model.name, "cross-encoder", model)
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if is_cross_encoder(name):
            return open_judge(load_pair_scorer(name, device=device))
        model = Encoder.load(name, device=device)
    return Judge(model.name, "encoder", model)


def judge_runs(
    judge: Judge,
    queries: Mapping[str, str],
    runs: Mapping[str, Run],
    content: Content,
    progress: Progress = SILENT,
) -> dict[str, Evaluation]:
    """Let a model grade the first results of every system, and score the systems by its grades.

    The figure is nDCG@10. The gain of a document is its grade: the probability of relevance of a cross-encoder, or the
    cosine of an encoder, scaled so that the best document of a query has 1 and the worst 0. The ideal ranking is of the
    best ten among the first ten of all systems, so figures of different comparisons are not comparable.

    Args:
        judge: the model.
        queries: the text of each query, by its id.
        runs: the runs of the systems, by name. A query without results scores 0.
        content: the function that returns the text of a document.
        progress: the display.

    Returns:
        The evaluation of each system by `OPINION`.

    Raises:
        UserError: there are no queries.
    """
    if not queries:
        raise UserError("There are no queries whose results a judge could grade: give some as `queries`.")
    ids = list(queries)
    first = {name: {each[0]: each[1][:JUDGED_RESULTS].tolist() for each in run} for name, run in runs.items()}
    pools = [list(dict.fromkeys(chain.from_iterable(found.get(one, ()) for found in first.values()))) for one in ids]
    values = {name: np.zeros(len(ids)) for name in runs}
    texts = list(queries.values())
    if isinstance(judge.model, PairScorer):
        graded = _grades_of_pairs(judge.model, texts, pools, content, progress)
    else:
        graded = _scaled_cosines(judge.model, texts, pools, content, progress)
    for place, grades in enumerate(graded):
        gains = dict(zip(pools[place], grades.tolist(), strict=True))
        ideal = _dcg(sorted(gains.values(), reverse=True)[:JUDGED_RESULTS])
        for name, found in first.items():
            values[name][place] = (
                _dcg([gains[doc_id] for doc_id in found.get(ids[place], ())]) / ideal if ideal else 0.0
            )
    return {
        name: Evaluation(
            scores={OPINION: float(column.mean())},
            per_query={OPINION: column},
            query_ids=tuple(ids),
            missing=sum(not first[name].get(one) for one in ids),
            extra=0,
            without_relevant=0,
            relevance_level=1,
            judged_share=1.0,
            answered=np.array([bool(first[name].get(one)) for one in ids]),
        )
        for name, column in values.items()
    }


def _grades_of_pairs(
    model: PairScorer, queries: Sequence[str], pools: Sequence[Sequence[str]], content: Content, progress: Progress
) -> Iterator[Grades]:
    """The probability of relevance of each document in the pool of each query."""
    with progress.task(f"Grading by {model.name}", sum(map(len, pools)), "pairs") as task:
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            block = range(start, min(start + _QUERIES_AT_ONCE, len(queries)))
            pairs = [(queries[place], content(doc_id)) for place in block for doc_id in pools[place]]
            grades = 1 / (1 + np.exp(-model.score(pairs, task).astype(np.float64)))
            yield from np.split(grades, np.cumsum([len(pools[place]) for place in block])[:-1])


def _scaled_cosines(
    model: Encoder, queries: Sequence[str], pools: Sequence[Sequence[str]], content: Content, progress: Progress
) -> Iterator[Grades]:
    """The cosine of each document in the pool of each query, scaled: the best of a pool has 1, the worst 0."""
    rows = {doc_id: row for row, doc_id in enumerate(dict.fromkeys(chain.from_iterable(pools)))}
    with progress.task(f"Grading by {model.name}", len(rows), "documents") as task:
        found = model.encode([content(doc_id) for doc_id in rows], "document", task)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    for asked, pool in zip(model.encode(queries, "query"), pools, strict=True):
        cosines = (found[[rows[doc_id] for doc_id in pool]] @ asked).astype(np.float64)
        width = np.ptp(cosines) if len(pool) else 0.0
        yield (cosines - cosines.min()) / width if width else np.ones(len(pool))


def _dcg(gains: Sequence[float]) -> float:
    return float((np.asarray(gains) / np.log2(np.arange(2, len(gains) + 2))).sum())
