"""What `ibkd eval` scores: run files, or what a search finds; against judgements and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.search.open import index_folder, open_ranker
from ibkd_retrieval.search.options import RankerOptions

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Judgement
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.evaluation.scores import Scores
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.runs.run_files import Run

USUAL_METRICS = ("ndcg@10", "mrr@10", "recall@100")
USUAL_K = 1000
"""Results a query that are scored."""


class Scoring(NamedTuple):
    """How to score; the fields are those of the options, empty or None for what the data set says."""

    metrics: tuple[str, ...]
    baselines: tuple[Path, ...]
    relevance_level: int | None
    resamples: int
    seed: int


class Scored(NamedTuple):
    """What was found.

    Attributes:
        board: the scores.
        against: where the judgements came from.
        tuned_on: how many of the judged queries weights were tuned on; None where none were tuned.
    """

    board: Scores
    against: str
    tuned_on: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The scoreboard's fields, "judgements", and "tuned_on" where weights were tuned."""
        tuned_on = {} if self.tuned_on is None else {"tuned_on": self.tuned_on}
        return self.board.to_json() | {"judgements": self.against} | tuned_on


def score_files(
    runs: Sequence[Path], qrels: str | None, queries: str | None, scoring: Scoring, progress: Progress
) -> Scored:
    """Score run files.

    With a qrels file, `queries` says only which data set they belong to: its metric and its relevance level.

    Raises:
        UserError: there are no judgements, or a file is wrong.
    """
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.search.runs.run_files import read_run

    against = qrels or queries
    if against is None:
        raise UserError("Judgements are needed to score a run: give --qrels QRELS.")
    judgements, level = _judgements(against, queries, progress)
    ranked = [(str(path), read_run(path)) for path in runs]
    return Scored(_scored(ranked, _baselines(scoring), judgements, scoring, queries or against, level), against)


def _baselines(scoring: Scoring) -> list[tuple[str, Run]]:
    from ibkd_retrieval.search.runs.run_files import read_run

    return [(str(path), read_run(path)) for path in scoring.baselines]


def _judgements(qrels: str, queries: str | None, progress: Progress) -> tuple[tuple[Judgement, ...], int]:
    """Judgements, and the lowest relevant grade of their data set, for a file or folder that of the queries."""
    from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS, relevance_level_of
    from ibkd_retrieval.corpora.spec import open_qrels, open_queries

    if not Path(qrels).expanduser().exists():
        asked = open_queries(qrels, need_judgements=True, progress=progress)
        return asked.judgements, asked.relevance_level
    known = KNOWN_SETS.get(queries or "")
    return open_qrels(qrels), known.relevance_level if known else relevance_level_of(queries or "")


def score_index(
    folders: Sequence[Path],
    options: RankerOptions,
    queries: str | None,
    qrels: str | None,
    k: int,
    scoring: Scoring,
    progress: Progress,
) -> Scored:
    """Search indexes, the newest where none is given, and score what is found.

    Raises:
        UserError: there are no judgements, or an index, model or option is wrong.
    """
    from ibkd_retrieval.corpora.spec import open_queries, queries_for

    folders = folders or [index_folder(None, progress)]
    if queries is None:
        from ibkd_retrieval.indexing.format.manifest import read_manifest

        queries = queries_for(read_manifest(folders[0]).corpus.name)
        progress.say(f"queries {queries} (those of the index's corpus; name others with --queries)")
    asked = open_queries(queries, need_judgements=qrels is None, progress=progress)
    judgements, level = asked.judgements, asked.relevance_level
    if qrels is not None:
        judgements, level = _judgements(qrels, queries, progress)
    baselines = _baselines(scoring)  # Before the search: a name may be mistyped.
    known: dict[str, Encoder] = {}
    from ibkd_retrieval.evaluation.fusion_weights import with_tuned_weights

    tuned = with_tuned_weights(folders, options, known, progress)
    tuned_on = None
    if options.tune is not None:
        judged = {judgement.query_id for judgement in judgements}
        # With their texts: other data sets may have the same ids.
        tuned_on = len(judged & {query.query_id for query in set(asked.queries) & set(tuned.queries)})
        if tuned_on:
            progress.say(_tuned_here(tuned_on, len(judged), queries))
    ranker = open_ranker(folders, tuned.options, known=known, progress=progress)
    ranked = [(" + ".join(map(str, folders)), ranker.search_batch(asked.queries, k, progress))]
    return Scored(_scored(ranked, baselines, judgements, scoring, queries, level), qrels or queries, tuned_on)


def _tuned_here(shared: int, judged: int, queries: str) -> str:
    """What to think of figures on queries that weights were tuned on, and what to tune on instead."""
    from ibkd_retrieval.corpora.catalog.registry import find_known

    known = find_known(queries)
    other = (known.dev or known.train) if known is not None else ""
    advice = f"--tune {other}" if other else "--tune with queries of another split"
    return (
        f"weights were tuned on {shared:,} of the {judged:,} judged queries that are scored: the figures are of tuning "
        f"and not of a test; give {advice}"
    )


def usual_metrics(data_set: str) -> tuple[str, ...]:
    """The metric that the data set is known for, then the usual ones."""
    from ibkd_retrieval.corpora.catalog.registry import main_metric

    return tuple(dict.fromkeys((main_metric(data_set), *USUAL_METRICS)))


def _scored(
    ranked: list[tuple[str, Run]],
    baselines: list[tuple[str, Run]],
    judgements: tuple[Judgement, ...],
    scoring: Scoring,
    data_set: str,
    level: int,
) -> Scores:
    from ibkd_retrieval.evaluation.metrics.query_scores import evaluate_run
    from ibkd_retrieval.evaluation.scores import ScoredRun, run_names, score_runs

    metrics = scoring.metrics or usual_metrics(data_set)
    level = scoring.relevance_level if scoring.relevance_level is not None else level
    read = [*ranked, *baselines]
    names = run_names([source for source, _ in read])
    scored = [
        ScoredRun(name, source, evaluate_run(run, judgements, metrics, level, name=source))
        for name, (source, run) in zip(names, read, strict=True)
    ]
    count = len(ranked)
    return score_runs(scored[:count], scored[count:], resamples=scoring.resamples, seed=scoring.seed)
