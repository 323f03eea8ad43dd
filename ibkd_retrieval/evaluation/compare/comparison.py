"""Statistics of a comparison: intervals, tests against the first system, and averages over data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.records import Average, MetricContrast, MetricScore
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.evaluation.significance import Values, bootstrap_means, holm, paired_tests, percentiles

Evaluations = Mapping[str, Mapping[str, Evaluation]]
"""By data set and system; all data sets have the same systems in the same order."""


@dataclass(frozen=True)
class Resampling:
    """The settings of intervals and tests.

    Attributes:
        confidence: confidence level of the intervals.
        samples: bootstrap resamples per interval.
        permutations: permutations of each randomisation test.
        seed: random seed of resampling and randomisation.
    """

    confidence: float = 0.95
    samples: int = 5_000
    permutations: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class Statistics:
    """What `compare_scores` found.

    Attributes:
        scores: by data set, system and metric.
        contrasts: likewise; none for the first system.
        averages: by system and metric.
    """

    scores: dict[str, dict[str, dict[str, MetricScore]]]
    contrasts: dict[str, dict[str, dict[str, MetricContrast]]]
    averages: dict[str, dict[str, Average]]


def compare_scores(evaluations: Evaluations, resampling: Resampling | None = None) -> Statistics:
    """Compute intervals, test every further system against the first, and average over data sets.

    Args:
        evaluations: of each data set's systems by the same metrics against the same judgements.
        resampling: of queries, within each data set.

    Raises:
        UserError: no data set or system, data sets with different systems, or evaluations of a data set by different
            queries, metrics or relevance levels.
    """
    how = resampling or Resampling()
    metrics = _shared_metrics(evaluations)
    # Data sets are drawn from apart: one seed for two of the same size would draw the same places from both.
    resamples = {
        name: _resampled(found, metrics, how.samples, how.seed + place)
        for place, (name, found) in enumerate(evaluations.items())
    }
    contrasts = {name: _contrasts(found, resamples[name], how) for name, found in evaluations.items()}
    return Statistics(
        scores={
            name: {
                system: {
                    metric: MetricScore(
                        evaluation.scores[metric],
                        percentiles(resamples[name][system, metric], how.confidence),
                        *_retention(
                            evaluation.scores[metric],
                            _first(found).scores[metric],
                            resamples[name][system, metric],
                            resamples[name][next(iter(found)), metric],
                            how.confidence,
                        ),
                    )
                    for metric in metrics
                }
                for system, evaluation in found.items()
            }
            for name, found in evaluations.items()
        },
        contrasts=_corrected(contrasts),
        averages=_averages(evaluations, resamples, metrics, how.confidence),
    )


def average_retention(
    values: Sequence[Mapping[str, Values]], metric: str, baselines: Sequence[Mapping[str, Values]], how: Resampling
) -> Average:
    """One metric of one system over data sets, against a baseline whose values were found elsewhere.

    Args:
        values: by metric, [q] for each data set.
        metric: its name in both.
        baselines: likewise, the same queries in the same order.
        how: queries are resampled within each data set, both systems together.
    """
    drawn = [
        bootstrap_means(np.stack([ours[metric], theirs[metric]], axis=1), how.samples, how.seed + place)
        for place, (ours, theirs) in enumerate(zip(values, baselines, strict=True))
    ]
    mean = float(np.mean([ours[metric].mean() for ours in values]))
    first = float(np.mean([theirs[metric].mean() for theirs in baselines]))
    resampled = np.mean(drawn, axis=0)
    return Average(mean, *_retention(mean, first, resampled[:, 0], resampled[:, 1], how.confidence))


_Resamples = dict[tuple[str, str], Values]


def _resampled(evaluations: Mapping[str, Evaluation], metrics: Sequence[str], samples: int, seed: int) -> _Resamples:
    """Resampled means [s] by system and metric, the same resamples for all."""
    keys = [(system, metric) for system in evaluations for metric in metrics]
    columns = np.stack([evaluations[system].per_query[metric] for system, metric in keys], axis=1)
    drawn = bootstrap_means(columns, samples, seed)
    return {key: drawn[:, place] for place, key in enumerate(keys)}


def _contrasts(
    evaluations: Mapping[str, Evaluation], resamples: _Resamples, how: Resampling
) -> dict[str, dict[str, MetricContrast]]:
    name, *others = evaluations
    first = evaluations[name]
    found: dict[str, dict[str, MetricContrast]] = {name: {}}
    for system in others:
        found[system] = {}
        for metric, values in evaluations[system].per_query.items():
            differences = resamples[system, metric] - resamples[name, metric]
            tests = paired_tests(
                values, first.per_query[metric], differences, how.confidence, how.permutations, how.seed
            )
            found[system][metric] = MetricContrast(
                difference=tests.randomisation.difference,
                interval=tests.interval,
                t_test_p=tests.t_test_p,
                randomisation_p=tests.randomisation.p_value,
                randomisation_p_holm=tests.randomisation.p_value,
                permutations=tests.randomisation.permutations,
                exact=tests.randomisation.exact,
                wins=tests.queries.wins,
                ties=tests.queries.ties,
                losses=tests.queries.losses,
            )
    return found


def _corrected(
    contrasts: Mapping[str, Mapping[str, Mapping[str, MetricContrast]]],
) -> dict[str, dict[str, dict[str, MetricContrast]]]:
    """The same with Holm's correction for all of them together."""
    p_values = [
        each.randomisation_p for systems in contrasts.values() for found in systems.values() for each in found.values()
    ]
    corrected = iter(holm(p_values))
    return {
        name: {
            system: {metric: replace(each, randomisation_p_holm=next(corrected)) for metric, each in found.items()}
            for system, found in systems.items()
        }
        for name, systems in contrasts.items()
    }


def _averages(
    evaluations: Evaluations, resamples: Mapping[str, _Resamples], metrics: Sequence[str], confidence: float
) -> dict[str, dict[str, Average]]:
    systems = list(next(iter(evaluations.values())))

    def mean(system: str, metric: str) -> float:
        return float(np.mean([found[system].scores[metric] for found in evaluations.values()]))

    def resampled(system: str, metric: str) -> Values:
        drawn: Values = np.mean([found[system, metric] for found in resamples.values()], axis=0)
        return drawn

    return {
        system: {
            metric: Average(
                mean(system, metric),
                *_retention(
                    mean(system, metric),
                    mean(systems[0], metric),
                    resampled(system, metric),
                    resampled(systems[0], metric),
                    confidence,
                ),
            )
            for metric in metrics
        }
        for system in systems
    }


def _retention(
    mean: float, first_mean: float, ours: Values, first: Values, confidence: float
) -> tuple[float | None, tuple[float, float] | None]:
    """The share of the first system's mean that is kept, and its interval; None where that cannot be said."""
    if first_mean <= 0:
        return None, None
    return mean / first_mean, percentiles(ours / first, confidence) if first.min() > 0 else None


def _first(evaluations: Mapping[str, Evaluation]) -> Evaluation:
    return next(iter(evaluations.values()))


def _shared_metrics(evaluations: Evaluations) -> tuple[str, ...]:
    if not evaluations or not all(evaluations.values()):
        raise UserError("There is nothing to compare: name at least one system.")
    systems = list(next(iter(evaluations.values())))
    metrics = tuple(_first(next(iter(evaluations.values()))).scores)
    for name, found in evaluations.items():
        if list(found) != systems:
            raise UserError(f"The systems on {name} are {', '.join(found)}, elsewhere {', '.join(systems)}: name all.")
        theirs = _first(found)
        for system, ours in found.items():
            if ours.query_ids != theirs.query_ids:
                raise UserError(
                    f"{systems[0]} and {system} were evaluated on different queries ({len(theirs.query_ids)} and "
                    f"{len(ours.query_ids)}): evaluate both against the same judgements."
                )
            if tuple(ours.scores) != metrics or ours.relevance_level != theirs.relevance_level:
                raise UserError(
                    f"{systems[0]} and {system} were evaluated by different metrics or relevance levels: evaluate "
                    "both alike."
                )
    return metrics
