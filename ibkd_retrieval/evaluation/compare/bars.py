"""Quality bars: a required share of a reference system's score, from this comparison or an earlier report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.comparison import Resampling, average_retention
from ibkd_retrieval.evaluation.compare.records import Average, Bar
from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport, read_comparison
from ibkd_retrieval.evaluation.metric_names import parse_metric
from ibkd_retrieval.evaluation.significance import Values


class QualityBar(NamedTuple):
    """A quality bar: the metric and the required retention."""

    metric: str
    at_least: float


class JudgedData(NamedTuple):
    """The data behind scores: documents, judged queries and relevance level. Comparable scores share it."""

    name: str
    fingerprint: str
    query_ids: frozenset[str]
    relevance_level: int = 1


@dataclass(frozen=True)
class Recorded:
    """One system of an earlier comparison, as a reference.

    Attributes:
        path: path of the report.
        system: name of the system.
        values: scores by fingerprint of the documents and judged queries, by metric as recorded, and by query id.
    """

    path: Path
    system: str
    values: Mapping[tuple[str, frozenset[str]], Mapping[str, Mapping[str, float]]]


def parse_bar(text: str, metrics: Sequence[str]) -> QualityBar:
    """Parse a bar such as `ndcg@10=0.97`.

    Args:
        text: a metric and a share.
        metrics: the measured metrics.

    Raises:
        UserError: the text is not a bar, or its metric is unknown or not measured.
    """
    name, equals, share = text.partition("=")
    try:
        at_least = float(share)
    except ValueError:
        at_least = -1
    if not equals or not 0 < at_least < 10:
        raise UserError(f"`fail_under` {text!r} is no bar: give a metric and the share to keep, such as ndcg@10=0.97.")
    measured = same_metric(name, metrics)
    if measured is None:
        raise UserError(
            f"`fail_under` {text!r}: {name} is not measured ({', '.join(metrics)} are): add `metrics={name}`."
        )
    return QualityBar(measured, at_least)


def same_metric(name: str, among: Iterable[str]) -> str | None:
    """The first name of the same metric, or None if there is none.

    Raises:
        UserError: a name is not a metric.
    """
    wanted = parse_metric(name)[1:]
    return next((each for each in among if parse_metric(each)[1:] == wanted), None)


def read_recorded(
    path: Path, system: str | None, data_sets: Sequence[JudgedData], bars: Sequence[QualityBar], k: int
) -> Recorded:
    """Read a system of an earlier comparison, and check that its scores are comparable with the new ones.

    Args:
        path: path of the report.
        system: name of the system. None is the first one.
        data_sets: the data sets of the new comparison.
        bars: the bars. The report must have their metrics.
        k: results per query for metrics without a cutoff.

    Raises:
        UserError: the report cannot be read, or lacks the system, a data set or a metric. Or a metric was measured with
            another number of results or another relevance level.
    """
    report = read_comparison(path)
    names = [each.name for each in report.systems]
    name = report.baseline if system is None else system
    if name not in names:
        raise UserError(f"{path} has no system {name!r}: it has {', '.join(names)}.")
    for bar in bars:
        if same_metric(bar.metric, report.metrics) is None:
            raise UserError(f"{path} has no {bar.metric}: it has {', '.join(report.metrics)}.")
        if report.k not in (None, k) and parse_metric(bar.metric).cutoff is None:
            raise UserError(
                f"{path} has {bar.metric} over the first {report.k:,} results and not over {k:,}: give `k={report.k}`, "
                "or a metric with a cutoff."
            )
    values = {_key(each): _by_query(each, name) for each in report.data_sets}
    for data in data_sets:
        if (data.fingerprint, data.query_ids) in values:
            _check_level(path, report, data, bars)
            continue
        same_corpus = [each.query_source for each in report.data_sets if each.fingerprint == data.fingerprint]
        what = (
            f"other judged queries of {data.name} ({', '.join(same_corpus)})"
            if same_corpus
            else f"no scores on the documents of {data.name}, but on those of "
            f"{', '.join(each.name for each in report.data_sets)}"
        )
        raise UserError(f"{path} has {what}: hold the systems against a report of the same data sets.")
    return Recorded(path, name, values)


def _check_level(path: Path, report: ComparisonReport, data: JudgedData, bars: Sequence[QualityBar]) -> None:
    before = next(each for each in report.data_sets if _key(each) == (data.fingerprint, data.query_ids))
    metrics = [parse_metric(bar.metric) for bar in bars]
    deciding = [metric.name for metric in metrics if metric.level is None and not metric.is_graded]
    if deciding and before.relevance_level not in (None, data.relevance_level):
        raise UserError(
            f"{path} has {deciding[0]} of {data.name} with grades from {before.relevance_level} on as relevant, and "
            f"now they count from {data.relevance_level} on: name the queries as it does, {before.query_source}."
        )


def hold(report: ComparisonReport, bars: Sequence[QualityBar], recorded: Recorded | None = None) -> tuple[Bar, ...]:
    """Check every system against every bar, averaged over the data sets.

    Args:
        report: the comparison.
        bars: the bars.
        recorded: the reference system from an earlier report. Every system is checked against it, even one of the same
            name. None takes the first system of this comparison, and checks all others.
    """
    against = report.baseline if recorded is None else recorded.system
    return tuple(
        _held(report, system.name, bar, against, recorded)
        for bar in bars
        for system in (report.systems if recorded is not None else report.systems[1:])
    )


def _held(report: ComparisonReport, system: str, bar: QualityBar, against: str, recorded: Recorded | None) -> Bar:
    kept = report.averages[system][bar.metric] if recorded is None else _against(report, system, bar.metric, recorded)
    passed = kept.retention is not None and kept.retention >= bar.at_least
    return Bar(
        metric=bar.metric,
        at_least=bar.at_least,
        system=system,
        retention=kept.retention,
        passed=passed,
        why=_why(kept, bar, system, against, recorded, report.confidence),
        against=against,
        report=None if recorded is None else str(recorded.path),
    )


def _why(
    kept: Average, bar: QualityBar, system: str, against: str, recorded: Recorded | None, confidence: float
) -> str:
    source = against if recorded is None else f"{against} in {recorded.path}"
    if kept.retention is None:
        return f"{source} scores 0 in {bar.metric}, so there is no share of it that {system} could keep."
    interval = ""
    if kept.retention_interval is not None:
        low, high = kept.retention_interval
        interval = f" ({confidence:.0%} interval {low:.4f} to {high:.4f})"
    verdict = "at least" if kept.retention >= bar.at_least else "less than"
    return (
        f"{system} keeps {kept.retention:.4f}{interval} of the {bar.metric} of {source}, {verdict} the "
        f"{bar.at_least:g} asked for."
    )


def _against(report: ComparisonReport, system: str, metric: str, recorded: Recorded) -> Average:
    ours: list[dict[str, Values]] = []
    theirs: list[dict[str, Values]] = []
    for data in report.data_sets:
        found = recorded.values[_key(data)]
        column = found[same_metric(metric, found) or metric]
        ours.append({metric: np.array(data.per_query.values[system][metric])})
        theirs.append({metric: np.array([column[query_id] for query_id in data.per_query.ids])})
    how = Resampling(confidence=report.confidence, samples=report.bootstrap_samples, seed=report.seed)
    return average_retention(ours, metric, theirs, how)


def _key(data: DataSetReport) -> tuple[str, frozenset[str]]:
    return data.fingerprint, frozenset(data.per_query.ids)


def _by_query(data: DataSetReport, system: str) -> dict[str, dict[str, float]]:
    return {
        metric: dict(zip(data.per_query.ids, column, strict=True))
        for metric, column in data.per_query.values[system].items()
    }
