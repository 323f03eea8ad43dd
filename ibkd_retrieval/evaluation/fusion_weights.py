"""Weights for the fusion of runs by their scores, found on queries with judgements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metrics.query_scores import evaluate_run
from ibkd_retrieval.search.runs.fusion import weighted_sum
from ibkd_retrieval.search.runs.run import Run


@dataclass(frozen=True)
class WeightPoint:
    """One setting that was tried: weights that add up to 1, and the metric's mean."""

    weights: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class TunedWeights:
    """What was tried and what was best.

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
