"""Fusion: several runs are fused into one, by ranks or by scores.

Values equal those of ranx's `fuse` (`rrf`, and `wsum` after its min-max normalisation), in a fraction of its time and
memory: thousands of queries are matched, added up and sorted at once, as arrays of keys. The scores of the result are
rounded to float32, and ties are in trec_eval's order, as in every run.

A query that some runs lack is fused from the others. A document that a run lacks gets 0 from that run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import Run, Scores, as_float32
from ibkd_retrieval.search.runs.doc_ids import Ids, Movable, empty_ids, hashes, movable

_CONSTANT = 60
"""The constant of reciprocal rank fusion, from the paper. A larger one gives the first ranks less weight."""
_SMALLEST_RANGE = 1e-9
"""The constant of ranx: scores in a smaller range are not spread over 0 to 1."""
_BLOCK_RESULTS, _BLOCK_QUERIES = 1 << 19, 1 << 15


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    depth: int | None = None,
    tag: str = "rrf",
    *,
    weights: Sequence[float] | None = None,
) -> Run:
    """Sum over the runs of weight / (60 + rank), ranks counted from 1.

    Cormack, Clarke and Büttcher, SIGIR 2009; https://doi.org/10.1145/1571941.1572114.

    Args:
        runs: two or more.
        depth: number of results of each run that are fused. None fuses all.
        tag: name of the fused run.
        weights: a weight per run. None is 1 each, which is the paper's formula.

    Raises:
        UserError: there are fewer than two runs, they have no query in common, or a setting is out of range.
    """
    weights = checked_weights(weights if weights is not None else [1.0] * len(runs), len(runs))
    _check(runs, depth)
    parts = [weight / (_CONSTANT + 1 + run.places) for run, weight in zip(runs, weights, strict=True)]
    return _fused(runs, parts, depth, tag)


def weighted_sum(
    runs: Sequence[Run],
    weights: Sequence[float],
    depth: int | None = None,
    tag: str = "sum",
) -> Run:
    """Sum over the runs of weight x normalised score.

    Each query's scores in a run are mapped to 0 for the last fused result and 1 for the first. A list of one document,
    or of equal scores, gives 0, as in ranx.

    Args:
        runs: two or more.
        weights: a weight per run, at least 0 and not all 0. Only their ratio decides the order.
        depth: number of results of each run that are fused. None fuses all.
        tag: name of the fused run.

    Raises:
        UserError: there are fewer than two runs, they have no query in common, or a setting is out of range.
    """
    weights = checked_weights(weights, len(runs))
    _check(runs, depth)
    parts = [weight * _min_max(run, depth) for run, weight in zip(runs, weights, strict=True)]
    return _fused(runs, parts, depth, tag)


def checked_weights(weights: Sequence[float], count: int) -> list[float]:
    """The weights of `count` runs as floats.

    Raises:
        UserError: the number of weights is not `count`, one is negative or not finite, or all are 0.
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
    """Add up the parts [n] of each run's results."""
    query_ids = tuple(dict.fromkeys(chain.from_iterable(run.query_ids for run in runs)))
    starts, lengths = _windows(runs, query_ids, depth)
    totals = np.append(0, np.cumsum(lengths.sum(axis=0)))
    doc_ids, scores = empty_ids(int(totals[-1])), np.empty(totals[-1], dtype=np.float64)
    counts = np.zeros(len(query_ids), dtype=np.int64)
    first = end = 0
    while first < len(query_ids):
        last = int(np.searchsorted(totals, totals[first] + _BLOCK_RESULTS, side="right")) - 1
        last = min(max(first + 1, last), first + _BLOCK_QUERIES)
        block = slice(first, last)
        places = [_gathered(starts[run, block], lengths[run, block]) for run in range(len(runs))]
        queries = [np.repeat(np.arange(last - first), lengths[run, block]) for run in range(len(runs))]
        own_ids, sums, owners = _added_up(
            movable(np.concatenate([_ids_at(run, place) for run, place in zip(runs, places, strict=True)])),
            np.concatenate([part[place] for part, place in zip(parts, places, strict=True)]),
            np.concatenate(queries),
        )
        own_ids, sums = _in_rank_order(own_ids, as_float32(sums), owners)
        counts[block] = np.bincount(owners, minlength=last - first)
        doc_ids[end : end + len(sums)], scores[end : end + len(sums)] = own_ids, sums
        first, end = last, end + len(sums)
    if not np.isfinite(scores[:end]).all():
        raise UserError("A fused score leaves the range of float32 numbers: use smaller weights.")
    return Run(query_ids, np.append(0, np.cumsum(counts)), doc_ids[:end], scores[:end], tag)


def _windows(
    runs: Sequence[Run], query_ids: Sequence[str], depth: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each query's results start in each run, and how many are fused. Both are [runs, queries]."""
    number_of = {query_id: number for number, query_id in enumerate(query_ids)}
    starts = np.zeros((len(runs), len(query_ids)), dtype=np.int64)
    lengths = np.zeros_like(starts)
    for row, run in enumerate(runs):
        numbers = np.array([number_of[query_id] for query_id in run.query_ids], dtype=np.int64)
        starts[row, numbers] = run.offsets[:-1]
        lengths[row, numbers] = np.diff(run.offsets)
    return starts, lengths if depth is None else np.minimum(lengths, depth)


def _gathered(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of all windows, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())


def _ids_at(run: Run, places: NDArray[np.int64]) -> Ids:
    """The ids at the places. Adjacent places are taken as one slice."""
    if len(places) and (np.diff(places) == 1).all():
        return run.doc_ids[places[0] : places[-1] + 1]
    return run.doc_ids[places]


def _added_up(doc_ids: Movable, parts: Scores, queries: NDArray[np.int64]) -> tuple[Movable, Scores, NDArray[np.int64]]:
    """Sum the parts of each document of each query.

    Args:
        doc_ids: [n].
        parts: float64 [n].
        queries: the number of each document's query [n], below 2^15.

    Returns:
        Documents, sums and queries [m], m <= n. Each document of a query appears once, and queries ascend.
    """
    for coded in (hashes, _numbered):
        keys = coded(doc_ids) | (queries << 48)
        # Stable, so that parts are added in the order of the runs, whatever the keys are.
        order = np.argsort(keys, kind="stable")
        keys, ids = keys[order], doc_ids[order]
        same = np.zeros(len(keys), dtype=bool)
        same[1:] = keys[1:] == keys[:-1]
        if (ids[same] == ids[np.flatnonzero(same) - 1]).all():
            break  # Otherwise two ids share a hash, and are numbered instead.
    firsts = np.flatnonzero(~same)
    sums = np.add.reduceat(parts[order], firsts) if len(firsts) else np.empty(0)
    return ids[firsts], sums, queries[order][firsts]


def _numbered(doc_ids: Movable) -> NDArray[np.int64]:
    """A number for each id, equal for equal ids."""
    numbers = {doc_id: number for number, doc_id in enumerate(dict.fromkeys(doc_ids.tolist()))}
    return np.fromiter(map(numbers.__getitem__, doc_ids.tolist()), np.int64, len(doc_ids))


def _in_rank_order(doc_ids: Movable, scores: NDArray[np.float32], queries: NDArray[np.int64]) -> tuple[Movable, Scores]:
    """Sort by query, by score descending, and by document id descending: `runs.in_rank_order` for many queries."""
    # Floats of one sign, read as integers, are in order. Adding 0 turns -0 into 0.
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)
    keys = (queries << 32) - np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    order = np.argsort(keys)
    keys, doc_ids = keys[order], doc_ids[order]
    _sort_ties(doc_ids, keys)
    return doc_ids, scores[order].astype(np.float64)


def _sort_ties(doc_ids: Movable, keys: NDArray[np.int64]) -> None:
    """Sort documents of equal, adjacent keys by id descending, in place."""
    if not len(keys):
        return
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    ends = np.append(starts[1:], len(keys))
    # Ranks of two runs tie in thousands of pairs, so all pairs are swapped at once.
    pairs = starts[ends - starts == 2]
    pairs = pairs[doc_ids[pairs] < doc_ids[pairs + 1]]
    doc_ids[pairs], doc_ids[pairs + 1] = doc_ids[pairs + 1], doc_ids[pairs]
    larger = ends - starts > 2
    for start, end in zip(starts[larger], ends[larger], strict=True):
        doc_ids[start:end] = sorted(doc_ids[start:end], reverse=True)
