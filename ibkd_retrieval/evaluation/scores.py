"""Scores of several runs on the same judgements, with intervals and tests against baselines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT
from ibkd_retrieval.evaluation.formatting import html_table, text_table
from ibkd_retrieval.evaluation.metrics import JUDGED_DEPTH, Evaluation
from ibkd_retrieval.evaluation.significance import Values, WinTieLoss, bootstrap_means, holm, paired_tests, percentiles
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT = 0.05
"""Corrected p values below this are marked in tables."""

COLUMNS = (
    *("run", "metric", "score", "low", "high", "queries", "missing_queries", "unjudged_queries", "judged@10"),
    *("baseline", "difference", "difference_low", "difference_high", "t_test_p", "randomisation_p"),
    *("randomisation_p_holm", "wins", "ties", "losses"),
)
"""Of `Scores.rows`."""


class ScoredRun(NamedTuple):
    """One run: the name tables show, where it came from, and what it scored."""

    name: str
    source: str
    evaluation: Evaluation


class BaselineContrast(NamedTuple):
    """One metric of one run against one baseline; differences are run minus baseline.

    Attributes:
        run: its name.
        baseline: its name.
        metric: its name as given.
        difference: of the means.
        interval: percentile bootstrap interval of the difference, queries resampled with both their values.
        t_test_p: paired t-test, two-sided; None with a single query.
        randomisation_p: Fisher's paired randomisation test, two-sided.
        randomisation_p_holm: the same, corrected by Holm for all contrasts.
        queries: wins, ties and losses of the run.
    """

    run: str
    baseline: str
    metric: str
    difference: float
    interval: tuple[float, float]
    t_test_p: float | None
    randomisation_p: float
    randomisation_p_holm: float
    queries: WinTieLoss

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types, the counts among them."""
        record: dict[str, Any] = self._asdict() | {"interval": list(self.interval)}
        del record["queries"]
        return record | self.queries._asdict()


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, float]):
    """The scores of runs. As a mapping, it gives the first run's score of each metric.

    Attributes:
        runs: the runs that were scored.
        baselines: the runs they were tested against.
        metrics: names as given.
        query_ids: the judged queries.
        intervals: percentile bootstrap intervals of the means, by name of the run or baseline and metric.
        contrasts: each run with each baseline from another source, by each metric.
        confidence: confidence level of all intervals.
        resamples: bootstrap resamples per interval.
        permutations: maximum number of permutations of a randomisation test.
        seed: random seed of resampling and randomisation.
        judgements: where the judgements came from.
        tuned_on: how many of the judged queries fusion weights were tuned on; None where none were tuned.
    """

    runs: tuple[ScoredRun, ...]
    baselines: tuple[ScoredRun, ...]
    metrics: tuple[str, ...]
    query_ids: tuple[str, ...]
    intervals: Mapping[tuple[str, str], tuple[float, float]]
    contrasts: tuple[BaselineContrast, ...]
    confidence: float
    resamples: int
    permutations: int
    seed: int
    judgements: str = "the judgements"
    tuned_on: int | None = None

    def __getitem__(self, metric: str) -> float:
        """The first run's mean of a metric."""
        return self.runs[0].evaluation.scores[metric]

    def __iter__(self) -> Iterator[str]:
        """The names of the metrics."""
        return iter(self.metrics)

    def __len__(self) -> int:
        """The number of metrics."""
        return len(self.metrics)

    def of(self, run: str) -> Mapping[str, float]:
        """The scores of one run or baseline, by metric.

        Raises:
            UserError: there is no such run.
        """
        return self._named(run).evaluation.scores

    def interval(self, metric: str, run: str | None = None) -> tuple[float, float]:
        """The bootstrap interval of a mean, of the first run unless one is named."""
        return self.intervals[self._named(run).name, metric]

    def per_query(self, metric: str, run: str | None = None) -> dict[str, float]:
        """The value of each judged query, of the first run unless one is named."""
        values = self._named(run).evaluation.per_query[metric]
        return dict(zip(self.query_ids, values.tolist(), strict=True))

    @property
    def p_values(self) -> dict[tuple[str, str, str], float]:
        """The p values of the randomisation tests, corrected by Holm, by run, baseline and metric."""
        return {(each.run, each.baseline, each.metric): each.randomisation_p_holm for each in self.contrasts}

    def _named(self, run: str | None) -> ScoredRun:
        everyone = (*self.runs, *self.baselines)
        found = next((each for each in everyone if run is None or each.name == run), None)
        if found is None:
            raise UserError(f"There is no run {run!r}: the runs are {', '.join(each.name for each in everyone)}.")
        return found

    def rows(self) -> Iterator[list[Any]]:
        """A row per run and metric, as `COLUMNS` says; with baselines a row per run, metric and baseline."""
        for run in (*self.baselines, *self.runs):
            found = run.evaluation
            for metric in self.metrics:
                scored = [run.name, metric, found.scores[metric], *self.intervals[run.name, metric]]
                scored += [len(self.query_ids), found.missing, found.extra, found.judged_share]
                against = [each for each in self.contrasts if (each.run, each.metric) == (run.name, metric)]
                for each in against:
                    tested = [each.baseline, each.difference, *each.interval, each.t_test_p, each.randomisation_p]
                    yield [*scored, *tested, each.randomisation_p_holm, *each.queries]
                if not against:
                    yield scored + [None] * (len(COLUMNS) - len(scored))

    def to_pandas(self) -> pd.DataFrame:
        """The scores, intervals and tests as a table, one row as `rows` gives it."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()), columns=list(COLUMNS))

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        header = ["run", *(heading for metric in self.metrics for heading in (metric, f"{self.confidence:.0%}"))]
        rows = []
        for run in (*self.baselines, *self.runs):
            cells = [run.name]
            for metric in self.metrics:
                low, high = self.intervals[run.name, metric]
                tested = [each for each in self.contrasts if (each.run, each.metric) == (run.name, metric)]
                mark = "*" if any(each.randomisation_p_holm < SIGNIFICANT for each in tested) else ""
                cells += [f"{run.evaluation.scores[metric]:.4f}{mark}", f"[{low:.4f}, {high:.4f}]"]
            rows.append(cells)
        return header, rows

    @property
    def is_judged(self) -> bool:
        """Whether there were judgements. If not, the metrics measure agreement with a baseline."""
        return self.metrics != AGREEMENT

    def _remark(self) -> str:
        if not self.is_judged:
            return f"{len(self.query_ids):,} queries, without judgements: agreement with {self.judgements}"
        marked = "; * differs significantly from a baseline" if self.contrasts else ""
        return f"{len(self.query_ids):,} judged queries of {self.judgements}{marked}"

    def __repr__(self) -> str:
        return f"{text_table(*self._shown())}\n{self._remark()}"

    def _repr_html_(self) -> str:
        return html_table(*self._shown(), self._remark())

    def to_json(self) -> dict[str, Any]:
        """The scores as JSON types; the first run's figures stand at the top too, by the metrics' names.

        Schema: {METRIC: float, ..., "scored": SOURCE, "intervals": {METRIC: [low, high]}, "missing_queries": int,
        "unjudged_queries": int, "judged@10": float, "relevance_level": int, "queries": int, "confidence": float,
        "resamples": int, "seed": int}; with several runs "runs": a list of the fields up to "relevance_level"; with
        baselines "baselines": the same for them, "permutations": int and "contrasts":
        `BaselineContrast.to_json` of each; "judgements": NAME; where weights were tuned "tuned_on": int.
        Without judgements, "agreement_with": SOURCE stands in their place and what counts judgements is left out.
        """
        shown = self._run_json(self.runs[0]) | {
            "queries": len(self.query_ids),
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
        }
        if len(self.runs) > 1:
            shown["runs"] = [self._run_json(run) for run in self.runs]
        if self.baselines:
            shown["baselines"] = [self._run_json(run) for run in self.baselines]
            shown["permutations"] = self.permutations
            shown["contrasts"] = [contrast.to_json() for contrast in self.contrasts]
        tuned_on = {} if self.tuned_on is None else {"tuned_on": self.tuned_on}
        return shown | {"judgements" if self.is_judged else "agreement_with": self.judgements} | tuned_on

    def _run_json(self, run: ScoredRun) -> dict[str, Any]:
        found = run.evaluation
        shown: dict[str, Any] = dict(found.scores) | {
            "scored": run.source,
            "intervals": {metric: list(self.intervals[run.name, metric]) for metric in self.metrics},
            "missing_queries": found.missing,
        }
        if not self.is_judged:
            return shown
        return shown | {
            "unjudged_queries": found.extra,
            f"judged@{JUDGED_DEPTH}": found.judged_share,
            "relevance_level": found.relevance_level,
        }


def score_runs(
    runs: Sequence[ScoredRun],
    baselines: Sequence[ScoredRun] = (),
    *,
    confidence: float = 0.95,
    resamples: int = 5_000,
    permutations: int = 10_000,
    seed: int = 0,
    judgements: str = "the judgements",
    tuned_on: int | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """Compute intervals of the scores, and test every run against every baseline.

    Args:
        runs: evaluated by the same metrics against the same judgements.
        baselines: evaluated alike.
        confidence: of the intervals.
        resamples: of the queries, behind each interval; all runs share them.
        permutations: of each randomisation test.
        seed: of resampling and randomisation.
        judgements: where the judgements came from; without judgements the baseline that runs are compared with.
        tuned_on: how many of the judged queries fusion weights were tuned on; None where none were tuned.
        progress: where to report the tests, which take seconds each on thousands of queries.

    Raises:
        UserError: no run, two of one name, evaluations that differ in queries, metrics or level, a baseline that
            answers other queries than a run, or no baseline but the run itself.
    """
    everyone = (*runs, *baselines)
    first = _checked(runs, everyone).evaluation
    for run in runs:
        for baseline in baselines:
            _check_same_queries(run, baseline)
    metrics = tuple(first.scores)
    columns = {
        (run.name, metric): place for place, (run, metric) in enumerate((r, m) for r in everyone for m in metrics)
    }
    values = np.stack([run.evaluation.per_query[metric] for run in everyone for metric in metrics], axis=1)
    means = bootstrap_means(values, resamples, seed)
    # A run among its own baselines would only make the correction of the others stricter.
    pairs = [(run, baseline) for run in runs for baseline in baselines if run.source != baseline.source]
    contrasts = []
    if pairs:
        with progress.task("Testing differences", len(pairs) * len(metrics), "tests") as task:
            for (run, baseline), metric in itertools.product(pairs, metrics):
                contrasts.append(_contrast(run, baseline, metric, columns, means, confidence, permutations, seed))
                task.advance(1)
    if baselines and not contrasts:
        raise UserError(f"{runs[0].source} is its own baseline: name another run to compare it with.")
    corrected = holm([contrast.randomisation_p for contrast in contrasts])
    return Scores(
        runs=tuple(runs),
        baselines=tuple(baselines),
        metrics=metrics,
        query_ids=first.query_ids,
        intervals={key: percentiles(means[:, place], confidence) for key, place in columns.items()},
        contrasts=tuple(
            contrast._replace(randomisation_p_holm=p) for contrast, p in zip(contrasts, corrected, strict=True)
        ),
        confidence=confidence,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
        judgements=judgements,
        tuned_on=tuned_on,
    )


def _contrast(
    run: ScoredRun,
    baseline: ScoredRun,
    metric: str,
    columns: Mapping[tuple[str, str], int],
    means: Values,
    confidence: float,
    permutations: int,
    seed: int,
) -> BaselineContrast:
    ours, theirs = run.evaluation.per_query[metric], baseline.evaluation.per_query[metric]
    # Both were resampled together, so the resampled differences are the differences of the resampled means.
    differences = means[:, columns[run.name, metric]] - means[:, columns[baseline.name, metric]]
    tests = paired_tests(ours, theirs, differences, confidence, permutations, seed)
    return BaselineContrast(
        run=run.name,
        baseline=baseline.name,
        metric=metric,
        difference=tests.randomisation.difference,
        interval=tests.interval,
        t_test_p=tests.t_test_p,
        randomisation_p=tests.randomisation.p_value,
        randomisation_p_holm=tests.randomisation.p_value,
        queries=tests.queries,
    )


def _checked(runs: Sequence[ScoredRun], everyone: Sequence[ScoredRun]) -> ScoredRun:
    if not runs:
        raise UserError("There is no run to score: name at least one.")
    first = runs[0]
    names = [run.name for run in everyone]
    for run in everyone:
        if names.count(run.name) > 1:
            raise UserError(f"Two runs are called {run.name}: give each its own name.")
        ours, theirs = run.evaluation, first.evaluation
        if (ours.query_ids, tuple(ours.scores), ours.relevance_level) != (
            theirs.query_ids,
            tuple(theirs.scores),
            theirs.relevance_level,
        ):
            raise UserError(
                f"{first.name} and {run.name} were evaluated on different queries, metrics or relevance levels: "
                "evaluate both alike."
            )
    return first


def _check_same_queries(run: ScoredRun, baseline: ScoredRun) -> None:
    """Refuse to compare runs that were made for different queries: zeros for the others would decide."""
    ours, theirs = run.evaluation.answered, baseline.evaluation.answered
    shared = int((ours & theirs).sum())
    if 2 * shared < max(int(ours.sum()), int(theirs.sum())):
        raise UserError(
            f"Baseline {baseline.source} answers {int(theirs.sum()):,} judged queries and {run.source} "
            f"{int(ours.sum()):,}, of which they share {shared:,}: give a baseline over the same queries."
        )


def run_names(sources: Sequence[str]) -> list[str]:
    """Short names for run files, without folders and endings where that tells them apart; the same name never twice."""
    return unique_names([_stem(source) for source in sources], sources)


def unique_names(short: Sequence[str], long: Sequence[str]) -> list[str]:
    """The short names, the long ones of those that are equal, and a number behind what is equal still."""
    names = [name if short.count(name) == 1 else other for name, other in zip(short, long, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def _stem(source: str) -> str:
    name = source.rstrip("/").rpartition("/")[2]
    for ending in (".gz", ".zst", ".trec", ".tsv", ".txt", ".run"):
        name = name.removesuffix(ending) or name
    return name
