"""Search an index with judged queries, tune fusion weights, and score the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from ibkd_retrieval.corpora.catalog.registry import find_known, main_metric
from ibkd_retrieval.corpora.records import Judgement, Query, QuerySet
from ibkd_retrieval.corpora.spec import Source, judged_by, open_queries, queries_for
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.evaluate import RunSource, read_judgements, read_runs, score_named_runs, usual_metrics
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.evaluation.scores import Scores
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index as open_stored_index
from ibkd_retrieval.progress import Progress, as_progress
from ibkd_retrieval.search import api
from ibkd_retrieval.search.api import Index
from ibkd_retrieval.search.open import index_folder, open_ranker
from ibkd_retrieval.search.options import RankerOptions
from ibkd_retrieval.search.query_vectors import given_vectors
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import weighted_sum

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder


P = ParamSpec("P")


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
    from ibkd_retrieval.indexing.faiss_binding import device_there

    options = replace(options, device=device_there(options.device, progress))
    if options.tune is None:
        return Tuned(options)
    if options.hybrid != "sum" or options.weights or len(folders) != 1:
        raise UserError(
            '`tune` finds the weights of `hybrid="sum"` on one index: give it with that, without `weights`.'
        )
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


def _tuning(opening: Callable[P, Index]) -> Callable[P, Index]:
    """Open an index as `opening` does, and find its fusion weights if `tune` is given."""

    @wraps(opening)
    def open_and_tune(*args: P.args, **kwargs: P.kwargs) -> Index:
        index = opening(*args, **kwargs)
        if index.options.tune is not None:
            index.options = with_tuned_weights(index.folders, index.options, index.known, index.progress).options
        return index

    return open_and_tune


open_index = _tuning(api.open_index)
"""The public `open_index`. Tuning needs metrics, and searching stands before them."""


USUAL_K = 1000
"""Results per query that are scored."""


def evaluate_index(
    index: Sequence[Path] = (),
    options: RankerOptions | None = None,
    queries: Source | None = None,
    *,
    qrels: Source | None = None,
    metrics: Sequence[str] = (),
    k: int = USUAL_K,
    baseline: Sequence[RunSource] = (),
    relevance_level: int | None = None,
    progress: bool | Progress = False,
    **drawn: Any,
) -> Scores:
    """Search an index and score the results.

    A query that is a document of the corpus itself, as in ArguAna and Quora, is left out of its own results.

    Args:
        index: the folder of the index, or several that hold parts of one corpus. The newest unless given.
        options: how to rank.
        queries: judged queries. Those of the index's corpus unless given; with `qrels`, those of `query_vectors`.
        qrels: judgements in place of those that come with the queries.
        metrics: names. The data set's own and the usual ones unless given.
        k: results per query.
        baseline: runs to test the differences against.
        relevance_level: lowest grade that counts as relevant. The data set's unless given.
        progress: receives progress reports.
        drawn: `confidence`, `resamples`, `permutations` and `seed` of intervals and tests.

    Raises:
        UserError: there are no judgements, or an index, a model or an option is wrong.

    Example:
        >>> evaluate_index([Path("indexes/mine")], queries="scifact", metrics=["ndcg@10"])["ndcg@10"]  # doctest: +SKIP
        0.6451
    """
    options, progress = options or RankerOptions(), as_progress(progress)
    folders = [index_folder(each, progress) for each in index] or [index_folder(None, progress)]
    known: dict[str, Encoder] = {}
    if queries is None and options.query_vectors is not None and qrels is not None:
        queries = given_vectors(options.query_vectors, open_stored_index(folders[0]), known).queries
    if queries is None:
        queries = queries_for(read_manifest(folders[0]).corpus.name)
        progress.say(f"queries {queries} (those of the index's corpus; name others as `queries`)")
    asked = open_queries(queries, need_judgements=qrels is None, progress=progress)
    judgements, level, source = asked.judgements, asked.relevance_level, _named(queries, asked)
    data_set = source
    if qrels is not None:
        judgements, level, source = read_judgements(qrels, data_set, progress)
        judgements = judged_by(asked, judgements).judgements
    baselines = read_runs(list(baseline))  # Before the search: a name may be mistyped.
    tuned = with_tuned_weights(folders, options, known, progress)
    tuned_on = None
    if options.tune is not None:
        judged = {judgement.query_id for judgement in judgements}
        # With their texts: other data sets may have the same ids.
        tuned_on = len(judged & {query.query_id for query in set(asked.queries) & set(tuned.queries)})
        if tuned_on:
            progress.say(_tuned_here(tuned_on, len(judged), data_set))
    chosen = replace(tuned.options, exclude_self=options.exclude_self or leaves_out_own(asked, progress))
    ranker = open_ranker(folders, chosen, known=known, progress=progress)
    ranked = [(" + ".join(map(str, folders)), ranker.search_batch(asked.queries, k, progress))]
    _refuse_other_documents(folders, ranked[0][1], judgements, source)
    return score_named_runs(
        ranked,
        baselines,
        judgements,
        tuple(metrics) or usual_metrics(data_set),
        level if relevance_level is None else relevance_level,
        source,
        tuned_on,
        progress=progress,
        **drawn,
    )


def _refuse_other_documents(folders: Sequence[Path], run: Run, judgements: Sequence[Judgement], source: str) -> None:
    """Refuse judgements of documents that no index holds. Otherwise the score would silently be 0.

    Raises:
        UserError: no relevant document is in the indexes.
    """
    wanted = {judgement.doc_id for judgement in judgements if judgement.relevance > 0}
    if not wanted or not wanted.isdisjoint(run.doc_ids.tolist()):
        return
    held = [doc_id for folder in folders for doc_id in open_stored_index(folder).present_ids()]
    if wanted.isdisjoint(held):
        raise UserError(
            f"None of the {len(wanted):,} relevant documents of {source} is in the index: the judgements are of"
            f" {', '.join(sorted(wanted)[:3])}, the index holds {', '.join(held[:3])}; judge its documents."
        )


def leaves_out_own(asked: QuerySet, progress: Progress) -> bool:
    """Whether queries are documents of the corpus. Then each is left out of its own results, and a message says so."""
    if asked.queries_are_documents:
        progress.say(f"the queries of {asked.name} are documents of its corpus: each is left out of its own results")
    return asked.queries_are_documents


def _named(queries: Source, asked: QuerySet) -> str:
    return queries if isinstance(queries, str) else asked.name


def _tuned_here(shared: int, judged: int, queries: str) -> str:
    """A warning that scores on tuning queries are optimistic, with other queries to tune on."""
    known = find_known(queries)
    other = (known.dev or known.train) if known is not None else ""
    advice = f'`tune="{other}"`' if other else "queries of another split as `tune`"
    return (
        f"weights were tuned on {shared:,} of the {judged:,} judged queries that are scored: the figures are of tuning "
        f"and not of a test; give {advice}"
    )
