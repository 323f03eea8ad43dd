"""Several runs into one, by ranks or by scores.

Values are those of ranx's `fuse` (`rrf`, and `wsum` after its min-max normalisation), in a fraction of its time and
memory: ranks and normalised scores are taken for all queries at once, documents are matched query by query. As ever
in a run, the result's scores are rounded to float32, and ties are in trec_eval's order.

A query that some of the runs lack is fused from the others; a document that a run lacks gets nothing from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.ranking import Ids, Run, Scores, as_float32, in_rank_order

NORMALISATIONS = ("min-max", "none")
_SMALLEST_RANGE = 1e-9
"""ranx's: scores closer together than this are not spread over 0 to 1."""


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    constant: int = 60,
    depth: int | None = None,
    tag: str = "rrf",
    *,
    weights: Sequence[float] | None = None,
) -> Run:
    """Sum over the runs of weight / (constant + rank), ranks counted from 1.

    Cormack, Clarke and Büttcher, SIGIR 2009; https://doi.org/10.1145/1571941.1572114.

    Args:
        runs: two or more.
        constant: how little the first ranks stand out, 0 or more.
        depth: results of each run that take part, None for all.
        tag: name of the fused run.
        weights: one a run, 1 each where None (the paper's formula).

    Raises:
        UserError: there are fewer than two runs, they have no query in common, or a setting is out of range.
    """
    if constant < 0:
        raise UserError(f"The constant of reciprocal rank fusion must be at least 0, not {constant}: the paper has 60.")
    weights = checked_weights(weights if weights is not None else [1.0] * len(runs), len(runs))
    _check(runs, depth)
    parts = [weight / (constant + 1 + _places(run)) for run, weight in zip(runs, weights, strict=True)]
    return _fused(runs, parts, depth, tag)


def weighted_sum(
    runs: Sequence[Run],
    weights: Sequence[float],
    normalisation: str = "min-max",
    depth: int | None = None,
    tag: str = "sum",
) -> Run:
    """Sum over the runs of weight x normalised score.

    "min-max" maps each query's scores in a run from 0, the last that takes part, to 1, the first; a list of one
    document, or of equal scores, gives 0 (as in ranx). "none" takes scores as they are, for runs that share a scale.

    Args:
        runs: two or more.
        weights: one a run, at least 0 and not all 0; only their ratio decides the order.
        normalisation: one of `NORMALISATIONS`.
        depth: results of each run that take part, None for all.
        tag: name of the fused run.

    Raises:
        UserError: there are fewer than two runs, they have no query in common, or a setting is out of range.
    """
    if normalisation not in NORMALISATIONS:
        raise UserError(f"There is no normalisation {normalisation!r}: choose one of {', '.join(NORMALISATIONS)}.")
    weights = checked_weights(weights, len(runs))
    _check(runs, depth)
    scores = [run.scores if normalisation == "none" else _min_max(run, depth) for run in runs]
    return _fused(runs, [weight * part for weight, part in zip(weights, scores, strict=True)], depth, tag)


def checked_weights(weights: Sequence[float], count: int) -> list[float]:
    """The weights of `count` runs as floats.

    Raises:
        UserError: they are not one a run, or one is negative or not finite, or all are 0.
    """
    if len(weights) != count:
        raise UserError(f"Fusion needs one weight for each of {count} runs: got {len(weights)}.")
    values = [float(weight) for weight in weights]
    if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
        shown = ", ".join(f"{value:g}" for value in values)
        raise UserError(f"Fusion weights must be numbers of at least 0 and not all 0: got {shown}.")
    return values


def _check(runs: Sequence[Run], depth: int | None) -> None:
    if len(runs) < 2:
        raise UserError(f"Fusion takes two runs or more: got {len(runs)}.")
    if depth is not None and depth < 1:
        raise UserError(f"The depth of fusion must be at least 1, not {depth}: leave it out for all results.")
    common = set(runs[0].query_ids).intersection(*(run.query_ids for run in runs[1:]))
    if not common and any(len(run) for run in runs):
        examples = " and ".join(f"({', '.join([*run.query_ids[:3], '...'])})" for run in runs)
        raise UserError(f"The runs {examples} have no query in common: fuse runs of the same queries.")


def _places(run: Run) -> NDArray[np.int64]:
    """Each result's place in its query's list, counted from 0."""
    return np.arange(len(run.scores)) - np.repeat(run.offsets[:-1], np.diff(run.offsets))


def _min_max(run: Run, depth: int | None) -> Scores:
    """Each query's scores mapped to 0 to 1 over its first `depth` results."""
    starts, stops = run.offsets[:-1], run.offsets[1:]
    filled = np.flatnonzero(stops > starts)
    starts, stops = starts[filled], stops[filled]
    lasts = (stops if depth is None else np.minimum(stops, starts + depth)) - 1
    lowest = run.scores[lasts]
    spread = np.maximum(run.scores[starts] - lowest, _SMALLEST_RANGE)
    lengths = stops - starts
    normalised: Scores = (run.scores - np.repeat(lowest, lengths)) / np.repeat(spread, lengths)
    return normalised


def _fused(runs: Sequence[Run], parts: Sequence[Scores], depth: int | None, tag: str) -> Run:
    """Add up the parts [n] that each run's results bring."""
    query_ids = tuple(dict.fromkeys(chain.from_iterable(run.query_ids for run in runs)))
    rows = [{query_id: row for row, query_id in enumerate(run.query_ids)} for run in runs]
    offsets = np.zeros(len(query_ids) + 1, dtype=np.int64)
    most = sum(len(run.doc_ids) for run in runs)
    doc_ids, scores = np.empty(most, dtype=object), np.empty(most, dtype=np.float64)
    for number, query_id in enumerate(query_ids):
        lists = []
        for run, part, row_of in zip(runs, parts, rows, strict=True):
            if (row := row_of.get(query_id)) is not None:
                start, stop = int(run.offsets[row]), int(run.offsets[row + 1])
                stop = stop if depth is None else min(stop, start + depth)
                lists.append((run.doc_ids[start:stop], part[start:stop]))
        own_ids, sums = added_up(lists)
        start, stop = offsets[number], offsets[number] + len(sums)
        doc_ids[start:stop], scores[start:stop] = in_rank_order(own_ids, as_float32(sums))
        offsets[number + 1] = stop
    if not np.isfinite(scores[: offsets[-1]]).all():
        raise UserError("A fused score leaves the range of float32 numbers: use smaller weights, or normalise.")
    return Run(query_ids, offsets, doc_ids[: offsets[-1]], scores[: offsets[-1]], tag)


def added_up(lists: Sequence[tuple[Ids, Scores]]) -> tuple[Ids, Scores]:
    """Documents of one query, each once, with the sum of what the lists give them, in no particular order."""
    numbers: dict[str, int] = {}
    for ids, _ in lists:
        for doc_id in ids.tolist():
            numbers.setdefault(doc_id, len(numbers))
    doc_ids = np.array(list(numbers), dtype=object)
    sums = np.zeros(len(numbers))
    for ids, part in lists:
        sums[np.fromiter(map(numbers.__getitem__, ids.tolist()), np.int64, len(ids))] += part
    return doc_ids, sums
