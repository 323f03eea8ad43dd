"""What a comparison says of quality, as records: scores, contrasts, agreement, examples, bars.

They are stored in the report's JSON by the names of their fields, which docs/formats.md describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ibkd_retrieval.json_io import KEY

Interval = tuple[float, float]
"""Low and high end."""


@dataclass(frozen=True)
class MetricScore:
    """One metric of one system.

    Attributes:
        mean: over the judged queries.
        interval: bootstrap interval of the mean.
        retention: mean / first system's mean; None where that is 0.
        retention_interval: bootstrap interval of the retention, both systems resampled together; None where a
            resample of the first system has mean 0.
    """

    mean: float
    interval: Interval
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True)
class MetricContrast:
    """One metric of one system against the first system.

    Attributes:
        difference: system's mean minus first system's mean.
        interval: bootstrap interval of the difference.
        t_test_p: paired t-test, two-sided; None with a single query.
        randomisation_p: Fisher's paired randomisation test, two-sided.
        randomisation_p_holm: the same, corrected by Holm for all contrasts of the comparison, all data sets together.
        permutations: sign patterns the randomisation test looked at.
        exact: it looked at all of them.
        wins: queries on which the system is better.
        ties: queries without a difference.
        losses: queries on which the first system is better.
    """

    difference: float
    interval: Interval
    t_test_p: float | None
    randomisation_p: float
    randomisation_p_holm: float
    permutations: int
    exact: bool
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Agreement:
    """How alike a system's rankings are to the first system's, as means over all queries.

    Attributes:
        overlap_at_10: share of the first ten documents that both have.
        rbo: rank-biased overlap, extrapolated, persistence 0.9.
    """

    overlap_at_10: float = field(metadata={KEY: "overlap@10"})
    rbo: float


@dataclass(frozen=True)
class PerQuery:
    """The values behind the means: query ids [q], and by system and metric one value for each [q]."""

    ids: tuple[str, ...]
    values: dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class RankedDocument:
    """A document in a ranking; `text` is cut after 200 characters (…), `relevance` None where nobody judged it."""

    id: str
    title: str
    text: str
    score: float
    relevance: int | None


@dataclass(frozen=True)
class Example:
    """A query that a system lost or won much on, against the first system.

    Attributes:
        system: its name.
        query_id: of the query.
        query: its text.
        metric: the first one.
        baseline_value: of the first system.
        value: of the system.
        rankings: the first five documents of the first system and of this one, by name.
    """

    system: str
    query_id: str
    query: str
    metric: str
    baseline_value: float
    value: float
    rankings: dict[str, tuple[RankedDocument, ...]]


@dataclass(frozen=True)
class Average:
    """One metric of one system over all data sets, each counting the same.

    Attributes:
        mean: of the data sets' means.
        retention: mean / first system's mean; None where that is 0.
        retention_interval: queries resampled within each data set.
    """

    mean: float
    retention: float | None
    retention_interval: Interval | None


@dataclass(frozen=True)
class Bar:
    """A share of the first system's score that a system has to keep, averaged over the data sets, and whether it does.

    Attributes:
        metric: its name.
        at_least: the share.
        system: held against it.
        retention: the share kept; None where the first system scores 0.
        passed: whether that is at least as much.
        why: a sentence.
        against: the system that the share is of.
        report: the file of an earlier comparison that holds that system's scores; None where it is of this one.
    """

    metric: str
    at_least: float
    system: str
    retention: float | None
    passed: bool
    why: str
    against: str
    report: str | None = None
