"""Several systems side by side on the same queries: what each costs, what each keeps of the first one's quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.efficiency import Efficiency
from ibkd_retrieval.evaluation.environment import Environment
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.evaluation.old_report import Comparison, Contrast, Row, Score
from ibkd_retrieval.evaluation.significance import (
    Values,
    bootstrap_means,
    holm,
    paired_tests,
    percentiles,
)

__all__ = ["Comparison", "Contrast", "Row", "Score", "System", "compare"]


class System(NamedTuple):
    """What is compared: a name for the report, its scores, and its costs where measured."""

    name: str
    evaluation: Evaluation
    efficiency: Efficiency | None = None


def compare(
    systems: Sequence[System],
    *,
    confidence: float = 0.95,
    bootstrap_samples: int = 5_000,
    permutations: int = 10_000,
    seed: int = 0,
    environment: Environment | None = None,
) -> Comparison:
    """Compare systems with the first of them.

    Args:
        systems: evaluated with the same metrics against the same judgements.
        confidence: of the bootstrap intervals.
        bootstrap_samples: resamples behind each interval.
        permutations: of each randomisation test.
        seed: of resampling and randomisation.
        environment: what the costs were measured on, recorded as given.

    Raises:
        UserError: no system, a name twice, or evaluations of different queries, metrics or relevance levels.
    """
    metrics = _shared_metrics(systems)
    first = systems[0]
    columns = [system.evaluation.per_query[metric] for system in systems for metric in metrics]
    resampled = bootstrap_means(np.stack(columns, axis=1), bootstrap_samples, seed)
    resamples = {
        (system.name, metric): resampled[:, place * len(metrics) + offset]
        for place, system in enumerate(systems)
        for offset, metric in enumerate(metrics)
    }
    rows = tuple(
        Row(
            name=system.name,
            scores={
                metric: _score(
                    system.evaluation.scores[metric],
                    first.evaluation.scores[metric],
                    resamples[system.name, metric],
                    resamples[first.name, metric],
                    confidence,
                )
                for metric in metrics
            },
            missing=system.evaluation.missing,
            efficiency=system.efficiency,
            gains=_gains(system.efficiency, first.efficiency),
        )
        for system in systems
    )
    contrasts = []
    for system in systems[1:]:
        for metric in metrics:
            ours, theirs = system.evaluation.per_query[metric], first.evaluation.per_query[metric]
            differences = resamples[system.name, metric] - resamples[first.name, metric]
            tests = paired_tests(ours, theirs, differences, confidence, permutations, seed)
            contrasts.append(
                Contrast(
                    system=system.name,
                    metric=metric,
                    difference=tests.randomisation.difference,
                    interval=tests.interval,
                    t_test_p=tests.t_test_p,
                    randomisation_p=tests.randomisation.p_value,
                    randomisation_p_holm=tests.randomisation.p_value,
                    permutations=tests.randomisation.permutations,
                    exact=tests.randomisation.exact,
                    queries=tests.queries,
                )
            )
    corrected = holm([contrast.randomisation_p for contrast in contrasts])
    return Comparison(
        metrics=metrics,
        query_count=len(first.evaluation.query_ids),
        rows=rows,
        contrasts=tuple(
            contrast._replace(randomisation_p_holm=p) for contrast, p in zip(contrasts, corrected, strict=True)
        ),
        confidence=confidence,
        bootstrap_samples=bootstrap_samples,
        seed=seed,
        environment=environment,
    )


def _shared_metrics(systems: Sequence[System]) -> tuple[str, ...]:
    if not systems:
        raise UserError("There is nothing to compare: name at least one system.")
    first = systems[0]
    names = [system.name for system in systems]
    for system in systems[1:]:
        if names.count(system.name) > 1:
            raise UserError(f"Two systems are called {system.name}: give each its own name.")
        ours, theirs = system.evaluation, first.evaluation
        if ours.query_ids != theirs.query_ids:
            raise UserError(
                f"{first.name} and {system.name} were evaluated on different queries ({len(theirs.query_ids)} and "
                f"{len(ours.query_ids)}): evaluate both against the same judgements."
            )
        if set(ours.scores) != set(theirs.scores) or ours.relevance_level != theirs.relevance_level:
            raise UserError(
                f"{first.name} and {system.name} were evaluated by different metrics or relevance levels: evaluate "
                "both alike."
            )
    return tuple(first.evaluation.scores)


def _score(mean: float, first_mean: float, ours: Values, first: Values, confidence: float) -> Score:
    retention = mean / first_mean if first_mean > 0 else None
    interval = percentiles(ours / first, confidence) if retention is not None and first.min() > 0 else None
    return Score(mean, percentiles(ours, confidence), retention, interval)


def _gains(ours: Efficiency | None, first: Efficiency | None) -> dict[str, float]:
    if ours is None or first is None:
        return {}
    our_costs, first_costs = _costs(ours), _costs(first)
    return {
        cost: first_value / our_value
        for cost, our_value in our_costs.items()
        if our_value and (first_value := first_costs[cost])
    }


def _costs(efficiency: Efficiency) -> dict[str, float | None]:
    """Each cost by name; less is better in all of them."""
    latency, throughput = efficiency.latency, efficiency.throughput
    return {
        "parameters": efficiency.parameters,
        "transformer_parameters": efficiency.transformer_parameters,
        "dims": efficiency.dims,
        "model_bytes": efficiency.model_bytes,
        "index_disk_bytes": efficiency.index_disk_bytes,
        "index_memory_bytes": efficiency.index_memory_bytes,
        "disk_bytes_per_document": efficiency.disk_bytes_per_document,
        "memory_bytes_per_document": efficiency.memory_bytes_per_document,
        "query_encode_p50": latency.encode.p50 if latency else None,
        "query_search_p50": latency.search.p50 if latency else None,
        "query_total_p50": latency.total.p50 if latency else None,
        "query_total_p95": latency.total.p95 if latency else None,
        "seconds_per_document": 1 / throughput.documents_per_second if throughput else None,
    }
