"""The options of ranking, and indexes opened by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ibkd_retrieval.search.options import RankerOptions

from .common import COMPUTATION, on_cluster
from .declare import ADVANCED, flag, option

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.api import Index

RANKED = f"{ADVANCED}: words, fusion and reranking"
SEARCHED = f"{ADVANCED}: how the index is searched"

RANKING: dict[str, Any] = {
    "engine": option("Search by vectors (dense) or by words.", panel=RANKED, choices=("dense", "bm25", "lucene")),
    "language": option(
        "Language of the words, for --engine bm25 and --hybrid: german, zh, arabic, hindi, ..., or none.",
        panel=RANKED,
        metavar="LANGUAGE",
    ),
    "hybrid": option(
        "Fuse dense with bm25 (or --engine lucene) by ranks (rrf) or scores (sum).",
        panel=RANKED,
        choices=("rrf", "sum"),
    ),
    "weights": option(
        "For --hybrid: weight of dense, then of words; give both.",
        "--weight",
        panel=RANKED,
        default="equal",
        metavar="NUMBER",
    ),
    "tune": option(
        "For --hybrid sum: find the weights on these judged queries. Use other queries than those you report.",
        panel=RANKED,
        metavar="QUERIES",
    ),
    "rerank": option("Cross-encoder that re-orders the best results by their text.", panel=RANKED, metavar="MODEL"),
    "rerank_depth": option("Results a query that --rerank reads.", panel=RANKED),
    "rerank_max_length": option(
        "Tokens --rerank reads of query and text.", panel=RANKED, default="the model's own limit"
    ),
    "filters": option(
        "Find only documents with year>=1990, source=arxiv, title!=x (=, !=, <, <=, >, >=), or those whose ids a @FILE "
        "lists, one a line; repeat: all must hold.",
        "--filter",
        panel=SEARCHED,
        metavar="CONDITION",
    ),
    "exclude_self": flag(
        "Leave the document with the query's own id out of its results (ArguAna, Quora).",
        "--exclude-self",
        panel=SEARCHED,
    ),
    "nprobe": option("Inverted lists to visit.", panel=SEARCHED, default="the index's own"),
    "refine": option("Candidates per result scored exactly.", panel=SEARCHED, default="the index's own"),
    "ef_search": option(
        "Size of the candidate list of a search in an hnsw graph.", panel=SEARCHED, default="the index's own"
    ),
    "recall": option(
        "Use the fastest search parameters that were measured to find this share of the exact ten nearest.",
        panel=SEARCHED,
        default="the index's own",
        metavar="SHARE",
    ),
    "model": option(
        "Where the index's own encoder is now.",
        panel=SEARCHED,
        default="where it was when indexing",
        metavar="MODEL",
    ),
    "query_model": option(
        "Encode queries by a student that was distilled into the vector space of the index.",
        panel=SEARCHED,
        metavar="STUDENT",
    ),
    "query_vectors": option(
        "Vectors of the queries, in place of a model: parquet with id or text, or a folder of vectors.npy and ids.txt.",
        panel=SEARCHED,
        metavar="FILE",
    ),
    "cluster": on_cluster(SEARCHED)["cluster"],
    "exact_merge": flag(
        "For --cluster: merge the candidates of all parts before they are refined, as one process does.",
        "--exact-merge",
        panel=SEARCHED,
    ),
    **{name: COMPUTATION[name] for name in ("pooling", "device", "dtype", "backend")},
}

Ranking = Annotated[RankerOptions, RANKING]
_OF_BATCHES = ("exclude_self", "query_vectors", "cluster", "exact_merge")
RankingTyped = Annotated[RankerOptions, {name: each for name, each in RANKING.items() if name not in _OF_BATCHES}]
"""Of questions that are typed: they have no id, and no vector."""


def opened(
    given: Sequence[Sequence[Path] | None], options: RankerOptions, progress: Progress, *, single: bool = False
) -> list[Index]:
    """Open indexes with their models; None is the newest index. Those of one encoder share it.

    `single` is for questions that come one by one, whose model opens faster.
    """
    import ibkd_retrieval as ibkd

    known: dict[str, Any] = {}
    indexes = [ibkd.open_index(path, config=options, known=known, progress=progress) for path in given]
    return [index.load(single=single) for index in indexes]
