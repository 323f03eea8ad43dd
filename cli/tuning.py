"""Weights of a fusion found on judged queries, as search and eval share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.errors import UserError

from .opening import open_ranker
from .options.ranking import RankerOptions

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Query
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress


class Tuned(NamedTuple):
    """How to rank, and the queries that this was found on, none where nothing was tuned."""

    options: RankerOptions
    queries: tuple[Query, ...] = ()


def with_tuned_weights(
    folders: Sequence[Path], options: RankerOptions, known: dict[str, Encoder], progress: Progress
) -> Tuned:
    """The options with the weights that do best on the queries of `--tune`; as they are where it was not given.

    Args:
        folders: the index.
        options: how to rank.
        known: encoders already loaded, by weight hash; filled.
        progress: told of the weights.

    Raises:
        UserError: --tune goes with other options, or its queries have no judgements.
    """
    if options.tune is None:
        return Tuned(options)
    if options.hybrid != "sum" or options.weights or len(folders) != 1:
        raise UserError("--tune finds the weights of --hybrid sum on one index: give it with that, without --weight.")
    from ibkd_retrieval.corpora.catalog.registry import main_metric
    from ibkd_retrieval.corpora.spec import open_queries
    from ibkd_retrieval.evaluation.fusion_weights import tune_weights
    from ibkd_retrieval.search.hybrid import HybridSearcher

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
