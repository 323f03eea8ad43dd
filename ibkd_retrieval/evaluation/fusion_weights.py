"""Tune the weights of score fusion on judged queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.corpora.records import Judgement, Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metrics.query_scores import evaluate_run
from ibkd_retrieval.search.open import open_ranker
from ibkd_retrieval.search.options import RankerOptions
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import weighted_sum

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class WeightPoint:
    """One setting that was tried: weights that add up to 1, and the metric's mean."""

    weights: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class TunedWeights:
    """The settings that were tried, and the best one.

    Attributes:
        weights: those of the highest score; among equals, the nearest to equal shares, then the first tried.
        score: what they reached on the queries they were tuned on, an optimistic figure.
        metric: as given.
        points: every setting tried, in order.
    """

    weights: tuple[float, ...]
    score: float
    metric: str
    points: tuple[WeightPoint, ...]


def tune_weights(
    runs: Sequence[Run],
    judgements: Iterable[Judgement],
    metric: str,
    *,
    steps: int = 10,
    relevance_level: int = 1,
) -> TunedWeights:
    """Try all weights that are multiples of 1 / steps and add up to 1, as ranx's `optimize_fusion` does.

    Tune on a development split: the score on the tuning queries says little about others.

    Args:
        runs: two or more, of the same queries.
        judgements: of those queries.
        metric: a name that `parse_metric` understands.
        steps: parts of the unit, 1 or more. Two runs have steps + 1 points, three (steps + 1)(steps + 2) / 2.
        relevance_level: lowest grade that counts as relevant for binary metrics.

    Raises:
        UserError: steps is below 1, or the runs cannot be fused or evaluated.
    """
    if steps < 1:
        raise UserError(f"The steps between the weights 0 and 1 must be at least 1, not {steps}.")
    judged = tuple(judgements)
    points = []
    for parts in _compositions(steps, len(runs)):
        weights = tuple(part / steps for part in parts)
        scores = evaluate_run(weighted_sum(runs, weights), judged, [metric], relevance_level).scores
        points.append(WeightPoint(weights, scores[metric]))
    best = max(points, key=lambda point: (point.score, -sum(weight**2 for weight in point.weights)))
    return TunedWeights(best.weights, best.score, metric, tuple(points))


def _compositions(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """All tuples of `count` whole numbers of at least 0 that add up to `total`."""
    if count <= 1:
        yield (total,) * count
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, count - 1):
            yield first, *rest


class Tuned(NamedTuple):
    """How to rank, and the queries that this was found on, none where nothing was tuned."""

    options: RankerOptions
    queries: tuple[Query, ...] = ()


def with_tuned_weights(
    folders: Sequence[Path], options: RankerOptions, known: dict[str, Encoder], progress: Progress
) -> Tuned:
    """The options with the weights that do best on the queries of `options.tune`; as they are where it was not given.

    Args:
        folders: the index.
        options: how to rank.
        known: encoders already loaded, by weight hash; filled.
        progress: receives a message with the weights.

    Raises:
        UserError: `tune` goes with other options, or its queries have no judgements.
    """
    from ibkd_retrieval.indexing.gpu import device_there

    options = replace(options, device=device_there(options.device, progress))
    if options.tune is None:
        return Tuned(options)
    if options.hybrid != "sum" or options.weights or len(folders) != 1:
        raise UserError(
            '`tune` finds the weights of `hybrid="sum"` on one index: give it with that, without `weights`.'
        )
    from ibkd_retrieval.corpora.catalog.registry import main_metric
    from ibkd_retrieval.corpora.spec import open_queries
    from ibkd_retrieval.search.ranker import HybridSearcher

    asked = open_queries(options.tune, need_judgements=True, progress=progress)
    first_stage = replace(options, rerank=None)
    ranker = open_ranker(folders, first_stage, known=known, progress=progress)
    assert isinstance(ranker, HybridSearcher)
    runs = [each.search_batch(asked.queries, progress=progress) for each in ranker.rankers]
    metric = main_metric(options.tune)
    tuned = tune_weights(runs, asked.judgements, metric, relevance_level=asked.relevance_level)
    shown = ", ".join(f"{weight:g} {each.name}" for weight, each in zip(tuned.weights, ranker.rankers, strict=True))
    progress.say(f"weights {shown}: {metric} {tuned.score:.4f} on {len(asked.queries):,} queries of {options.tune}")
    return Tuned(replace(options, weights=tuned.weights), asked.queries)
