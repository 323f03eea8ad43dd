"""Known encoders against their published figures on SciFact, scored by this toolkit and by pytrec_eval.

usage: python benchmarks/published_figures.py --data-dir DIR --models-dir DIR --work-dir DIR

DIR/scifact is the BEIR folder; the models are folders of their names below --models-dir. Indexes are kept in the work
folder: run again, the script resumes or reuses them. Writes benchmarks/results/published_figures.json.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import pytrec_eval

from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.run_files import read_run, write_run
from ibkd_retrieval.search.searcher import Searcher

# nDCG@10 on SciFact test, MTEB leaderboard.
PUBLISHED = {"all-mpnet-base-v2": 0.6557, "all-MiniLM-L6-v2": 0.6451}
TOLERANCE = 0.006
METRICS = {"ndcg@10": "ndcg_cut_10", "recall@100": "recall_100", "map": "map"}


def by_pytrec_eval(run: Run, judgements: dict[str, dict[str, int]]) -> dict[str, float]:
    """Means over all judged queries; one that the run lacks scores 0."""
    results = {
        query_id: dict(zip(doc_ids.tolist(), map(float, scores), strict=True)) for query_id, doc_ids, scores in run
    }
    measured = pytrec_eval.RelevanceEvaluator(judgements, set(METRICS.values())).evaluate(results)
    return {
        ours: sum(measured.get(query_id, {}).get(theirs, 0.0) for query_id in judgements) / len(judgements)
        for ours, theirs in METRICS.items()
    }


def main() -> None:
    """Measure both encoders and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    spec = str(given.data_dir / "scifact")
    queries = open_queries(spec, need_judgements=True)
    judgements: dict[str, dict[str, int]] = {}
    for query_id, doc_id, grade in queries.judgements:
        judgements.setdefault(query_id, {})[doc_id] = grade
    rows = []
    for name, published in PUBLISHED.items():
        encoder = Encoder.load(str(given.models_dir / name))
        folder = given.work_dir / f"scifact-{name}-flat"
        build_index(open_corpus(spec), encoder, folder, resume=folder.exists())
        path = given.work_dir / f"{name}.trec"
        write_run(Searcher(open_index(folder), encoder).search_batch(queries.queries, 1000), path)
        run = read_run(path)
        ours = evaluate_run(run, queries.judgements, list(METRICS)).scores
        theirs = by_pytrec_eval(run, judgements)
        rows.append(
            {
                "model": name,
                "published_ndcg@10": published,
                "scores": dict(ours),
                "largest_difference_from_pytrec_eval": max(abs(ours[metric] - theirs[metric]) for metric in METRICS),
                "within_tolerance": abs(ours["ndcg@10"] - published) <= TOLERANCE,
                "max_length": encoder.max_length,
                "dtype": encoder.dtype,
            }
        )
        print(rows[-1])
    result = {
        "data_set": "BEIR SciFact, test split, full corpus, flat index",
        "queries": len(judgements),
        "tolerance": TOLERANCE,
        "rows": rows,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "published_figures.json", result)


if __name__ == "__main__":
    main()
