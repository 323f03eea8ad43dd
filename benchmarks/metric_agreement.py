"""Every metric against pytrec_eval, query by query, on real runs; and the published figure of one of them.

usage: python benchmarks/metric_agreement.py --data-dir DIR

DIR holds dl19-bm25-tilde.run and qrels.dl19-passage.txt (TREC Deep Learning 2019, BM25 tuned by Anserini; its nDCG@10
is published) and cacm-bm25-anserini.run. For the latter there are NO official judgements here: grades are drawn at
random from the run's own documents with a fixed seed. That shows whether two programs agree, and its scores say nothing
about CACM or BM25. Writes benchmarks/results/metric_agreement.json, whose rows name their judgements.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import numpy as np
import pytrec_eval

from ibkd_retrieval.corpora.qrels import read_qrels
from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.files import write_json
from ibkd_retrieval.search.runs.run_files import Run, read_run

# Ours, trec_eval's measure as it is asked for, and the name of its result.
METRICS = {
    "mrr": ("recip_rank", "recip_rank"),
    "ndcg": ("ndcg", "ndcg"),
    "ndcg@5": ("ndcg_cut.5", "ndcg_cut_5"),
    "ndcg@10": ("ndcg_cut.10", "ndcg_cut_10"),
    "ndcg@100": ("ndcg_cut.100", "ndcg_cut_100"),
    "map": ("map", "map"),
    "map@100": ("map_cut.100", "map_cut_100"),
    "precision": ("set_P", "set_P"),
    "precision@10": ("P.10", "P_10"),
    "recall": ("set_recall", "set_recall"),
    "recall@100": ("recall.100", "recall_100"),
    "recall@1000": ("recall.1000", "recall_1000"),
    "f1": ("set_F", "set_F"),
    "hits": ("num_rel_ret", "num_rel_ret"),
    "hit_rate@10": ("success.10", "success_10"),
    "r-precision": ("Rprec", "Rprec"),
    "bpref": ("bpref", "bpref"),
}
# Of tuned BM25 on TREC DL 2019 passages, by Anserini; other metrics are held against pytrec_eval alone.
PUBLISHED = {"ndcg@10": 0.4973}
OFFICIAL_JUDGEMENTS = "official: TREC Deep Learning 2019, passages"
DRAWN_JUDGEMENTS = "drawn at random, not the collection's own: for agreement only, the scores mean nothing"
TOLERANCE = 1e-9


def by_trec_eval(run: Run, judgements: tuple[Judgement, ...], level: int) -> dict[str, np.ndarray]:
    """Values of every judged query, in the order of the judgements; 0 where the run lacks the query."""
    graded: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in judgements:
        graded.setdefault(query_id, {})[doc_id] = grade
    ranked = {query_id: dict(zip(ids.tolist(), values.tolist(), strict=True)) for query_id, ids, values in run}
    measures = {asked for asked, _ in METRICS.values()}
    found = pytrec_eval.RelevanceEvaluator(graded, measures, relevance_level=level).evaluate(ranked)
    return {
        ours: np.array([found.get(query_id, {}).get(theirs, 0.0) for query_id in graded])
        for ours, (_, theirs) in METRICS.items()
    }


def drawn_judgements(run: Run, seed: int = 0) -> tuple[Judgement, ...]:
    """Grades 0 to 2 for a third of each query's documents."""
    rng = np.random.default_rng(seed)
    return tuple(
        Judgement(query_id, doc_id, int(grade))
        for query_id, doc_ids, _ in run
        for doc_id, grade in zip(
            doc_ids.tolist(), rng.choice([-1, 0, 1, 2], len(doc_ids), p=[0.6, 0.2, 0.1, 0.1]), strict=True
        )
        if grade >= 0
    )


def agreement(name: str, run: Run, judgements: tuple[Judgement, ...], origin: str) -> list[dict[str, object]]:
    """A row for each relevance level: scores, and the largest difference over queries by metric."""
    rows: list[dict[str, object]] = []
    for level in (1, 2):
        ours = evaluate_run(run, judgements, list(METRICS), level)
        theirs = by_trec_eval(run, judgements, level)
        differences = {metric: float(np.abs(ours.per_query[metric] - theirs[metric]).max()) for metric in METRICS}
        rows.append(
            {
                "run": name,
                "judgements": origin,
                "relevance_level": level,
                "queries": len(ours.query_ids),
                "scores": dict(ours.scores),
                "largest_difference_of_a_query": differences,
                "agrees": max(differences.values()) <= TOLERANCE,
            }
        )
        print(name, "level", level, "largest difference", max(differences.values()))
    return rows


def main() -> None:
    """Compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    folder = parser.parse_args().data_dir
    dl19, judged = read_run(folder / "dl19-bm25-tilde.run"), read_qrels(folder / "qrels.dl19-passage.txt")
    cacm = read_run(folder / "cacm-bm25-anserini.run")
    scores = evaluate_run(dl19, judged, list(PUBLISHED)).scores
    published = {
        metric: {
            "published": figure,
            "ours": scores[metric],
            "equal_to_four_digits": round(scores[metric], 4) == figure,
        }
        for metric, figure in PUBLISHED.items()
    }
    print(published)
    result = {
        "tolerance": TOLERANCE,
        "published_figure_of_dl19_bm25": published,
        "rows": [
            *agreement("dl19-bm25-tilde", dl19, judged, OFFICIAL_JUDGEMENTS),
            *agreement("cacm-bm25", cacm, drawn_judgements(cacm), DRAWN_JUDGEMENTS),
        ],
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "metric_agreement.json", result)


if __name__ == "__main__":
    main()
