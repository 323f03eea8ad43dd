"""`evaluate`: score runs against judgements or another run, and write the scores as CSV, LaTeX or lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, main_metric, relevance_level_of
from ibkd_retrieval.corpora.records import Judgement, QuerySet
from ibkd_retrieval.corpora.spec import Source, open_qrels, open_queries
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import agreement_with
from ibkd_retrieval.evaluation.formatting import csv_table, latex_escaped, latex_table, one_line
from ibkd_retrieval.evaluation.metrics import Evaluation, evaluate_run
from ibkd_retrieval.evaluation.scores import (
    COLUMNS,
    SIGNIFICANT,
    ScoredRun,
    Scores,
    run_names,
    score_runs,
    unique_names,
)
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.progress import SILENT, Progress, as_progress
from ibkd_retrieval.search.runs.run_files import Run, read_run

USUAL_METRICS = ("ndcg@10", "mrr@10", "recall@100")

RunSource = Run | str | os.PathLike[str] | Mapping[str, Mapping[str, float]]
"""A run, its file, or the scores of documents by query."""

NamedRun = tuple[str, Run]

_UNJUDGED = "Judgements are needed to score a run: give `qrels`, or one `baseline` to compare the run with instead."


def evaluate(
    run: RunSource | Sequence[RunSource] | Mapping[str, RunSource],
    judgements: Source | None,
    metrics: str | Sequence[str] = ("ndcg@10",),
    *,
    baseline: RunSource | Sequence[RunSource] | Mapping[str, RunSource] | None = None,
    queries: str | None = None,
    relevance_level: int | None = None,
    confidence: float = 0.95,
    resamples: int = 5_000,
    permutations: int = 10_000,
    seed: int = 0,
    progress: bool | Progress = False,
) -> Scores:
    """Score one run or several, and test them against baselines.

    Without judgements, runs are compared with one baseline by `overlap@10` and rank-biased overlap (`rbo`).

    Args:
        run: a `Run`, a TREC or MS MARCO file, a dict of dicts `{query: {document: score}}`, a list of these, or a
            dict from names to them.
        judgements: a data set's name, a qrels file, a `QuerySet`, a dict of dicts `{query: {document: grade}}`, or
            None to compare with the baseline only.
        metrics: one or more metric names from the documentation, such as "ndcg@10".
        baseline: one or more baselines, in any form of `run`. p values are corrected for all comparisons.
        queries: the data set of judgements from a file. It sets the relevance level.
        relevance_level: lowest grade that counts as relevant. None is the data set's own.
        confidence: confidence level of the intervals.
        resamples: bootstrap resamples per interval.
        permutations: permutations of each randomisation test.
        seed: random seed of resampling and randomisation.
        progress: receives progress reports.

    Returns:
        The scores, by metric: `scores["ndcg@10"]` is that of the first run.

    Raises:
        UserError: a file, a metric or a number is invalid, or a run and the judgements share no query.

    Example:
        >>> run = {"q1": {"d1": 0.9, "d2": 0.5}, "q2": {"d3": 0.7, "d1": 0.1}}
        >>> scores = evaluate(run, {"q1": {"d1": 1}, "q2": {"d1": 1}}, ["mrr@10", "recall@1"])
        >>> scores["mrr@10"]
        0.75
        >>> scores.per_query("recall@1")
        {'q1': 1.0, 'q2': 0.0}
    """
    progress = as_progress(progress)
    if judgements is None and (baseline is None or (isinstance(baseline, list | tuple) and not baseline)):
        raise UserError(_UNJUDGED)
    ranked = read_runs(run)
    baselines = [] if baseline is None else _other_names(read_runs(baseline), dict(ranked))
    drawn: dict[str, Any] = {
        "confidence": confidence,
        "resamples": resamples,
        "permutations": permutations,
        "seed": seed,
        "progress": progress,
    }
    if judgements is None:
        return _agreement(ranked, baselines, drawn)
    judged, level, source = read_judgements(judgements, queries, progress)
    return score_named_runs(
        ranked,
        baselines,
        judged,
        [metrics] if isinstance(metrics, str) else metrics,
        level if relevance_level is None else relevance_level,
        source,
        **drawn,
    )


def score_named_runs(
    ranked: Sequence[NamedRun],
    baselines: Sequence[NamedRun],
    judgements: tuple[Judgement, ...],
    metrics: Sequence[str],
    relevance_level: int,
    source: str,
    tuned_on: int | None = None,
    **drawn: Any,
) -> Scores:
    """Score runs that were read or made.

    Args:
        ranked: where each run came from, and the run.
        baselines: likewise.
        judgements: of their queries.
        metrics: names.
        relevance_level: lowest grade that counts as relevant.
        source: where the judgements came from.
        tuned_on: how many judged queries fusion weights were tuned on.
        drawn: `confidence`, `resamples`, `permutations` and `seed` of intervals and tests, and `progress`.
    """

    def scored(run: Run, name: str) -> Evaluation:
        return evaluate_run(run, judgements, metrics, relevance_level, name=name)

    return _scores(ranked, baselines, scored, judgements=source, tuned_on=tuned_on, **drawn)


def _agreement(ranked: Sequence[NamedRun], baselines: Sequence[NamedRun], drawn: dict[str, Any]) -> Scores:
    if len(baselines) != 1:
        raise UserError(_UNJUDGED)
    ((source, baseline),) = baselines
    others = [(name, run) for name, run in ranked if name != source]
    if not others:
        raise UserError(f"{source} is its own baseline: name another run to compare it with.")
    return _scores(
        others, [], lambda run, name: agreement_with(run, baseline, run, baseline, name), judgements=source, **drawn
    )


def _scores(ranked: Sequence[NamedRun], baselines: Sequence[NamedRun], scored: Any, **settings: Any) -> Scores:
    read = [*ranked, *baselines]
    names = run_names([source for source, _ in read])
    found = [ScoredRun(name, source, scored(run, source)) for name, (source, run) in zip(names, read, strict=True)]
    return score_runs(found[: len(ranked)], found[len(ranked) :], **settings)


def read_runs(source: Any) -> list[NamedRun]:
    """The runs that `evaluate` was given, each with the name of where it came from.

    Raises:
        UserError: a file cannot be read, or what was given is no run.
    """
    if isinstance(source, Mapping) and not _is_scores(source):
        return [(name, _run_of(each)[1]) for name, each in source.items()]
    given = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    read = [_run_of(each) for each in given]
    names = [name for name, _ in read]
    return list(zip(unique_names(names, names), (run for _, run in read), strict=True))


def _other_names(baselines: list[NamedRun], ranked: Mapping[str, Run]) -> list[NamedRun]:
    """The baselines, called differently where another run has the same name."""
    return [
        (name if name not in ranked or _same(ranked[name], run) else f"{name} (baseline)", run)
        for name, run in baselines
    ]


def _same(first: Run, other: Run) -> bool:
    return first is other or (
        first.query_ids == other.query_ids
        and np.array_equal(first.doc_ids, other.doc_ids)
        and np.array_equal(first.scores, other.scores)
    )


def _is_scores(source: Mapping[str, Any]) -> bool:
    """Whether a dict holds the scores of documents by query; else it holds runs by name."""
    return all(
        isinstance(documents, Mapping) and not any(isinstance(score, Mapping) for score in documents.values())
        for documents in source.values()
    )


def _run_of(source: Any) -> NamedRun:
    if isinstance(source, Run):
        return source.tag, source
    if isinstance(source, str | os.PathLike):
        return str(source), read_run(Path(source))
    if isinstance(source, Mapping) and _is_scores(source):
        documents = [list(each) for each in source.values()]
        return "run", Run.from_lists(list(source), documents, [list(each.values()) for each in source.values()], "run")
    raise UserError(
        f"`run` is {type(source).__name__}: give a run, a run file, or a dict from query ids to scores of documents."
    )


def read_judgements(
    source: Source, queries: str | None = None, progress: Progress = SILENT
) -> tuple[tuple[Judgement, ...], int, str]:
    """Judgements, the lowest relevant grade of their data set, and what to call them.

    Args:
        source: what `open_qrels` reads.
        queries: the data set that judgements from a file belong to.
        progress: receives progress reports.
    """
    if isinstance(source, QuerySet):
        return source.judgements, source.relevance_level, source.name
    if isinstance(source, str) and not Path(source).expanduser().exists():
        asked = open_queries(source, need_judgements=True, progress=progress)
        return asked.judgements, asked.relevance_level, source
    known = KNOWN_SETS.get(queries or "")
    level = known.relevance_level if known else relevance_level_of(queries or "")
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the judgements"
    return open_qrels(source, progress=progress), level, name


def usual_metrics(data_set: str) -> tuple[str, ...]:
    """The metric that the data set is known for, then the usual ones."""
    return tuple(dict.fromkeys((main_metric(data_set), *USUAL_METRICS)))


def as_csv(scores: Scores) -> str:
    """One line per run and metric, with its interval; with baselines one per run, metric and baseline."""
    return csv_table(COLUMNS, scores.rows())


def as_latex(scores: Scores) -> str:
    r"""A `booktabs` table: a row per run, baselines first, the best of each metric in bold.

    With baselines, each has a letter; a run carries it as superscript where it is significantly better than that
    baseline (corrected p < 0.05), as subscript where it is significantly worse.
    """
    letters = {run.name: ascii_lowercase[place % 26] for place, run in enumerate(scores.baselines)}
    everyone = (*scores.baselines, *scores.runs)
    best = {metric: max(round(run.evaluation.scores[metric], 4) for run in everyone) for metric in scores.metrics}
    lines = []
    for run in everyone:
        cells = [f"{latex_escaped(run.name)} ({letters[run.name]})" if run.name in letters else latex_escaped(run.name)]
        for metric in scores.metrics:
            value = round(run.evaluation.scores[metric], 4)
            shown = rf"\textbf{{{value:.4f}}}" if value == best[metric] else f"{value:.4f}"
            cells.append(shown + _marks(scores, run.name, metric, letters))
        lines.append(cells)
    count = len(scores.baselines)
    table = latex_table(scores.metrics, [lines[:count], lines[count:]])
    if not scores.baselines:
        return table
    return (
        f"{table}% Superscript: better than that baseline, subscript: worse; paired randomisation test, Holm-corrected "
        f"over {len(scores.contrasts)} comparisons, p < {SIGNIFICANT}, {len(scores.query_ids)} queries.\n"
    )


def _marks(scores: Scores, run: str, metric: str, letters: dict[str, str]) -> str:
    tested = [each for each in scores.contrasts if (each.run, each.metric) == (run, metric)]
    significant = [each for each in tested if each.randomisation_p_holm < SIGNIFICANT]
    better = "".join(letters[each.baseline] for each in significant if each.difference > 0)
    worse = "".join(letters[each.baseline] for each in significant if each.difference < 0)
    return (f"$^{{{better}}}$" if better else "") + (f"$_{{{worse}}}$" if worse else "")


def check_per_query_name(path: Path) -> None:
    """Refuse a name whose ending says neither TSV nor JSONL.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserError(f"{path}: every query's value is written as .tsv or .jsonl: give the file such an ending.")


def write_per_query(scores: Scores, path: Path) -> None:
    """Write every query's value of every metric, as TSV with a header or as JSONL, by the file's ending.

    The columns are query_id, metric and value; with more than one run or with baselines also run.

    Raises:
        UserError: another ending.
    """
    check_per_query_name(path)
    everyone = (*scores.runs, *scores.baselines)
    named = len(everyone) > 1
    lines = []
    for run in everyone:
        for metric in scores.metrics:
            for query_id, value in zip(scores.query_ids, run.evaluation.per_query[metric].tolist(), strict=True):
                row = {"query_id": query_id, "metric": metric, "value": value} | ({"run": run.name} if named else {})
                cells = (one_line(cell) for cell in row.values())
                lines.append(json.dumps(row, ensure_ascii=False) if path.suffix == ".jsonl" else "\t".join(cells))
    header = ["query_id\tmetric\tvalue" + ("\trun" if named else "")] if path.suffix == ".tsv" else []
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in [*header, *lines]).encode("utf-8"))
