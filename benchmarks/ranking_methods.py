"""One table: vectors, words, both, and both re-ranked by a cross-encoder, on judged collections.

usage: python benchmarks/ranking_methods.py --data-dir DIR --models-dir DIR --work-dir DIR [--rerank-depth 100]

Below --data-dir lie BEIR folders. Weights of the sum are tuned on training queries where a collection has some;
Cranfield, which has none, takes those of the collection before it. Test queries tune nothing. Indexes and runs are kept
in the work folder, named after the models, their weights and the options they depend on: run again, the script resumes
or reuses them. Writes benchmarks/results/ranking_methods.json. The extra `bm25` is needed.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.records import QuerySet
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.evaluation.evaluate_index import tune_weights
from ibkd_retrieval.evaluation.metrics import Evaluation, evaluate_run
from ibkd_retrieval.evaluation.significance import bootstrap_mean, holm, paired_t_test, randomisation_test, win_tie_loss
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from ibkd_retrieval.progress import SILENT
from ibkd_retrieval.search.lexical import open_lexical
from ibkd_retrieval.search.ranker import Ranker
from ibkd_retrieval.search.rerank import Reranker
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import reciprocal_rank_fusion, weighted_sum
from ibkd_retrieval.search.runs.run_files import read_run, write_run
from ibkd_retrieval.search.searcher import Searcher

# Collection, split that is reported, split whose queries tune the weights of the sum (None: the last are taken).
COLLECTIONS = (("scifact", "test", "train"), ("nfcorpus", "dev", "train"), ("cranfield", "test", None))
METRICS = ("ndcg@10", "mrr@10", "recall@100")
TUNING_QUERIES = 500
BASELINE = "dense"


def kept_run(ranker: Ranker, queries: QuerySet, path: Path) -> Run:
    """The thousand best documents of each query, searched once and read from the file after that."""
    if not path.exists():
        write_run(ranker.search_batch(queries.queries, 1000), path)
    return read_run(path)


def short(name: str, weight_hash: str, *options: object) -> str:
    """A model with its weights, and how it is used, as part of a file's name."""
    return "-".join([name.replace("/", "-"), weight_hash[:12], *map(str, options)])


def tuned_weights(
    dense: Ranker, words: Ranker, spec: str, work: Path, name: str, model: str
) -> tuple[tuple[float, ...], int]:
    """Weights of dense and words that are best on training queries, and how many queries said so."""
    asked = open_queries(spec, need_judgements=True)
    chosen = np.random.default_rng(0).permutation(len(asked.queries))[:TUNING_QUERIES]
    queries = tuple(asked.queries[place] for place in sorted(chosen))
    names = {query.query_id for query in queries}
    judgements = tuple(judgement for judgement in asked.judgements if judgement.query_id in names)
    sample = QuerySet(asked.name, queries, judgements, asked.relevance_level)
    runs = [
        kept_run(dense, sample, work / f"{name}-tune-{TUNING_QUERIES}-dense-{model}.trec"),
        kept_run(words, sample, work / f"{name}-tune-{TUNING_QUERIES}-bm25.trec"),
    ]
    return tune_weights(runs, judgements, "ndcg@10").weights, len(queries)


class FromRun:
    """A ranker that gives the results of a run again, so that the cross-encoder reads what was fused."""

    def __init__(self, run: Run, index: StoredIndex) -> None:
        self.name, self._run = run.tag, run

    def search_batch(self, queries: Sequence[Any], k: int = 1000, progress: Any = SILENT, tag: str = "ibkd") -> Run:
        """The run, whose queries are the ones asked."""
        return self._run


def compared(evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """Scores with intervals, and nDCG@10 against the baseline with Holm's correction over the systems."""
    rows: dict[str, Any] = {}
    others = [name for name in evaluations if name != BASELINE]
    base = evaluations[BASELINE].per_query["ndcg@10"]
    corrected = dict(
        zip(
            others,
            holm([randomisation_test(evaluations[n].per_query["ndcg@10"], base).p_value for n in others]),
            strict=True,
        )
    )
    for name, evaluation in evaluations.items():
        values = evaluation.per_query["ndcg@10"]
        interval = bootstrap_mean(values)
        rows[name] = {"scores": dict(evaluation.scores), "ndcg@10_interval": [interval.low, interval.high]}
        if name in corrected:
            rows[name]["against_dense"] = {
                "difference": evaluation.scores["ndcg@10"] - evaluations[BASELINE].scores["ndcg@10"],
                "p_randomisation_holm": corrected[name],
                "p_t_test": paired_t_test(values, base).p_value,
                **win_tie_loss(values, base)._asdict(),
            }
    return rows


def main() -> None:
    """Rank, score, test and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--reranker", default="ms-marco-MiniLM-L-12-v2-dequantised")
    parser.add_argument("--rerank-depth", type=int, default=100)
    parser.add_argument("--rerank-max-length", type=int, default=None)
    given = parser.parse_args()
    given.work_dir.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(str(given.models_dir / given.model))
    pair_scorer = load_pair_scorer(str(given.models_dir / given.reranker), max_length=given.rerank_max_length)
    model = short(given.model, encoder.weight_hash, encoder.dtype)
    reranker = short(given.reranker, pair_scorer.weight_hash, given.rerank_depth, given.rerank_max_length)
    result: dict[str, Any] = {"collections": {}}
    weights: tuple[float, ...] = ()
    tuned_on = ""
    for name, split, tuning in COLLECTIONS:
        corpus = str(given.data_dir / name)
        folder = given.work_dir / f"{name}-{model}"
        build_index(open_corpus(corpus), encoder, folder, resume=folder.exists())
        index = open_index(folder)
        dense, words = Searcher(index, encoder), open_lexical(index)
        if tuning is not None:
            weights, count = tuned_weights(dense, words, f"{corpus}:{tuning}", given.work_dir, name, model)
            tuned_on = f"{name}:{tuning}, {count} queries"
        queries = open_queries(f"{corpus}:{split}", need_judgements=True)
        path = given.work_dir / f"{name}-{split}"
        runs = {
            "dense": kept_run(dense, queries, path.with_name(f"{path.name}-dense-{model}.trec")),
            "bm25": kept_run(words, queries, path.with_name(f"{path.name}-bm25.trec")),
        }
        pair = [runs["dense"], runs["bm25"]]
        runs["hybrid rrf"] = reciprocal_rank_fusion(pair)
        runs["hybrid sum"] = weighted_sum(pair, weights)
        fused = FromRun(runs["hybrid sum"], index)
        scorer = Reranker(fused, [index], pair_scorer, given.rerank_depth)  # type: ignore[arg-type]
        target = path.with_name(f"{path.name}-{model}-reranked-{reranker}.trec")
        runs[f"hybrid sum, top {given.rerank_depth} re-ranked"] = kept_run(scorer, queries, target)
        evaluations = {
            system: evaluate_run(run, queries.judgements, list(METRICS), queries.relevance_level)
            for system, run in runs.items()
        }
        result["collections"][f"{name}:{split}"] = {
            "queries": len(queries.queries),
            "documents": len(index),
            "weights_of_dense_and_bm25": list(weights),
            "weights_tuned_on": tuned_on,
            "systems": compared(evaluations),
        }
        for system, evaluation in evaluations.items():
            print(f"{name}:{split} {system}: {evaluation.scores['ndcg@10']:.4f}", flush=True)
    result |= {
        "model": given.model,
        "max_length": encoder.max_length,
        "reranker": given.reranker,
        "rerank_depth": given.rerank_depth,
        "rerank_max_length": given.rerank_max_length,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "ranking_methods.json", result)


if __name__ == "__main__":
    main()
