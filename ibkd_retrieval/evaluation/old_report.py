"""What a comparison found, as records and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ibkd_retrieval.evaluation.efficiency import Efficiency
from ibkd_retrieval.evaluation.environment import Environment
from ibkd_retrieval.evaluation.significance import WinTieLoss

FORMAT_VERSION = 1
"""Of the JSON that `Comparison.to_json` gives."""


class Score(NamedTuple):
    """One metric of one system.

    Attributes:
        mean: over the judged queries.
        interval: bootstrap interval of the mean.
        retention: mean / first system's mean; None where that is 0.
        retention_interval: bootstrap interval of the retention, both systems resampled together; None where a
            resample of the first system has mean 0.
    """

    mean: float
    interval: tuple[float, float]
    retention: float | None
    retention_interval: tuple[float, float] | None


class Contrast(NamedTuple):
    """One metric of one system against the first system.

    Attributes:
        system: the system's name.
        metric: the metric's name.
        difference: system's mean minus first system's mean.
        interval: bootstrap interval of the difference.
        t_test_p: paired t-test, two-sided; None with a single query.
        randomisation_p: Fisher's paired randomisation test, two-sided.
        randomisation_p_holm: the same, corrected by Holm for all contrasts of the comparison.
        permutations: sign patterns the randomisation test looked at.
        exact: it looked at all of them.
        queries: wins, ties and losses of the system.
    """

    system: str
    metric: str
    difference: float
    interval: tuple[float, float]
    t_test_p: float | None
    randomisation_p: float
    randomisation_p_holm: float
    permutations: int
    exact: bool
    queries: WinTieLoss


class Row(NamedTuple):
    """One system.

    Attributes:
        name: of the system.
        scores: by metric name.
        missing: judged queries without results, counted as 0.
        efficiency: its costs.
        gains: by cost, how many times smaller or faster than the first system it is (above 1 is better, whatever
            the cost); only costs measured for both.
    """

    name: str
    scores: Mapping[str, Score]
    missing: int
    efficiency: Efficiency | None
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Systems side by side; the first row is what the others are compared with.

    Attributes:
        metrics: names, in the order given.
        query_count: judged queries.
        rows: a system each.
        contrasts: for each further system and metric.
        confidence: of all intervals.
        bootstrap_samples: behind each interval.
        seed: of resampling and randomisation.
        environment: what the costs were measured on.
    """

    metrics: tuple[str, ...]
    query_count: int
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    confidence: float
    bootstrap_samples: int
    seed: int
    environment: Environment | None = None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types.

        Schema (version 1), where an interval is [low, high] and null stands for what is not known::

            {"format_version": 1, "baseline": NAME, "metrics": [METRIC], "queries": int,
             "confidence": float, "bootstrap_samples": int, "seed": int,
             "systems": [{"name": NAME, "missing_queries": int,
                          "scores": {METRIC: {"mean": float, "interval": [..], "retention": float | null,
                                              "retention_interval": [..] | null}},
                          "efficiency": Efficiency.to_json() | null, "gains": {COST: float}}],
             "contrasts": [{"system": NAME, "metric": METRIC, "difference": float, "interval": [..],
                            "t_test_p": float | null, "randomisation_p": float, "randomisation_p_holm": float,
                            "permutations": int, "exact": bool, "wins": int, "ties": int, "losses": int}],
             "environment": Environment.to_json() | null}
        """
        return {
            "format_version": FORMAT_VERSION,
            "baseline": self.rows[0].name,
            "metrics": list(self.metrics),
            "queries": self.query_count,
            "confidence": self.confidence,
            "bootstrap_samples": self.bootstrap_samples,
            "seed": self.seed,
            "systems": [_row_json(row) for row in self.rows],
            "contrasts": [_contrast_json(contrast) for contrast in self.contrasts],
            "environment": self.environment.to_json() if self.environment else None,
        }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "missing_queries": row.missing,
        "scores": {
            metric: {
                "mean": score.mean,
                "interval": list(score.interval),
                "retention": score.retention,
                "retention_interval": list(score.retention_interval) if score.retention_interval else None,
            }
            for metric, score in row.scores.items()
        },
        "efficiency": row.efficiency.to_json() if row.efficiency else None,
        "gains": dict(row.gains),
    }


def _contrast_json(contrast: Contrast) -> dict[str, Any]:
    record: dict[str, Any] = contrast._asdict()
    record["interval"] = list(contrast.interval)
    record.update(record.pop("queries")._asdict())
    return record
