"""Scoring a large run: this toolkit, ranx and pytrec_eval, from a TREC file and from memory.

usage: python benchmarks/run_scoring.py --work-dir DIR [--queries 6980] [--depth 1000] [--rounds 3]

The run and the judgements are drawn with a fixed seed in the size of MS MARCO's dev set: ids of 8.8 million passages,
one judged passage a query. Each measurement has a process of its own, in which everything is imported and compiled
before the clock starts; systems take turns, round by round. "memory": what is in memory is each system's own input
(a Run here, a dictionary of dictionaries for the other two), and making ranx's Run of the dictionary is part of the
scoring. Writes benchmarks/results/run_scoring.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json

METRICS = ("mrr@10", "ndcg@10", "recall@1000")
SYSTEMS = ("ibkd-retrieval", "ranx", "pytrec_eval")
TOLERANCE = 1e-9


def draw(folder: Path, queries: int, depth: int, name: str = "run", seed: int = 0) -> None:
    """Write a TREC run and qrels; half of the judged passages are among a query's results."""
    rng = np.random.default_rng(seed)
    with (folder / f"{name}.trec").open("w") as run, (folder / f"{name}.qrels").open("w") as qrels:
        for number in range(queries):
            query = 1_048_000 + 7 * number
            passages = np.unique(rng.integers(0, 8_841_823, depth + depth // 10 + 5))
            passages = rng.permutation(passages)[:depth].tolist()
            scores = np.sort(rng.normal(20, 4, depth).astype(np.float32))[::-1].tolist()
            lines = zip(passages, scores, strict=True)
            run.write("".join(f"{query} Q0 {p} {r} {s:.9g} drawn\n" for r, (p, s) in enumerate(lines, 1)))
            place = min(int(rng.exponential(30)), depth - 1)
            qrels.write(f"{query} 0 {passages[place] if rng.random() < 0.5 else 8_900_000 + number} 1\n")


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def dictionary(path: Path) -> dict[str, dict[str, float]]:
    """A TREC run as the other two take it, each document's id in one place."""
    ranked: dict[str, dict[str, float]] = {}
    with path.open() as file:
        for line in file:
            query_id, _, doc_id, _, score, _ = line.split()
            ranked.setdefault(query_id, {})[doc_id] = float(score)
    return ranked


def score_here(folder: Path, name: str, source: str) -> dict[str, Any]:
    """This toolkit."""
    from ibkd_retrieval.corpora.qrels import read_qrels
    from ibkd_retrieval.evaluation.metrics import evaluate_run
    from ibkd_retrieval.search.runs.run_files import read_run

    judgements = read_qrels(folder / f"{name}.qrels")
    began = time.perf_counter()
    run = read_run(folder / f"{name}.trec")
    read = time.perf_counter()
    scores = evaluate_run(run, judgements, METRICS).scores
    return {"read": read - began, "score": time.perf_counter() - read, "scores": dict(scores)}


def score_by_ranx(folder: Path, name: str, source: str) -> dict[str, Any]:
    """ranx, from its own reader of TREC files or from a dictionary."""
    from ranx import Qrels, Run, evaluate

    qrels = Qrels.from_file(str(folder / f"{name}.qrels"), kind="trec")
    ranked = dictionary(folder / f"{name}.trec") if source == "memory" else None
    began = time.perf_counter()
    run = Run.from_file(str(folder / f"{name}.trec"), kind="trec") if ranked is None else None
    read = time.perf_counter()
    run = run if run is not None else Run(ranked)
    scores = evaluate(qrels, run, list(METRICS), make_comparable=True)
    seconds = time.perf_counter() - read
    return {"read": read - began, "score": seconds, "scores": {metric: float(scores[metric]) for metric in METRICS}}


def score_by_pytrec_eval(folder: Path, name: str, source: str) -> dict[str, Any]:
    """pytrec_eval, whose reciprocal rank has no cutoff: ranks beyond 10 are set to 0 afterwards."""
    import pytrec_eval

    with (folder / f"{name}.qrels").open() as file:
        qrels = pytrec_eval.parse_qrel(file)
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", "ndcg_cut.10", "recall.1000"})
    began = time.perf_counter()
    with (folder / f"{name}.trec").open() as file:
        ranked = pytrec_eval.parse_run(file)
    read = time.perf_counter()
    found = evaluator.evaluate(ranked).values()
    scores = {
        "mrr@10": sum(row["recip_rank"] * (row["recip_rank"] > 0.0999) for row in found) / len(qrels),
        "ndcg@10": sum(row["ndcg_cut_10"] for row in found) / len(qrels),
        "recall@1000": sum(row["recall_1000"] for row in found) / len(qrels),
    }
    return {"read": read - began, "score": time.perf_counter() - read, "scores": scores}


SCORERS = dict(zip(SYSTEMS, (score_here, score_by_ranx, score_by_pytrec_eval), strict=True))


def measure(system: str, source: str, folder: Path) -> dict[str, Any]:
    """One measurement in a fresh process."""
    threads = str(len(os.sched_getaffinity(0)))
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    command = [sys.executable, __file__, "--work-dir", str(folder), "--measure", system, source]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{system} from {source} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summary(system: str, source: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    middle = {key: statistics.median(each[key] for each in measured) for key in ("read", "score", "peak_megabytes")}
    # In memory there is nothing to read: what was read was the input's making.
    seconds = {"read": middle["read"]} if source == "file" else {}
    total = middle["score"] + seconds.get("read", 0.0)
    return {
        "system": system,
        "source": source,
        "seconds": {**seconds, "score": middle["score"], "total": total},
        "peak_megabytes": middle["peak_megabytes"],
        "scores": measured[0]["scores"],
    }


def main() -> None:
    """Measure all systems and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=6980)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("SYSTEM", "SOURCE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        system, source = given.measure
        SCORERS[system](given.work_dir, "small", source)
        print(json.dumps(SCORERS[system](given.work_dir, "run", source) | {"peak_megabytes": peak_megabytes()}))
        return
    given.work_dir.mkdir(parents=True, exist_ok=True)
    draw(given.work_dir, 20, 30, "small")
    draw(given.work_dir, given.queries, given.depth)
    pairs = [(system, source) for source in ("file", "memory") for system in SYSTEMS]
    for system in SYSTEMS:
        measure(system, "file", given.work_dir)  # Files into the page cache, compiled functions onto the disk.
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in pairs}
    for _ in range(given.rounds):
        for pair in pairs:
            measured[pair].append(measure(*pair, given.work_dir))
    rows = [summary(*pair, found) for pair, found in measured.items()]
    spread = {metric: np.ptp([row["scores"][metric] for row in rows]) for metric in METRICS}
    for row in rows:
        print(row)
    result = {
        "queries": given.queries,
        "depth": given.depth,
        "rounds": given.rounds,
        "rows": rows,
        "largest_difference_between_systems": {metric: float(value) for metric, value in spread.items()},
        "all_agree": all(value <= TOLERANCE for value in spread.values()),
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "run_scoring.json", result)


if __name__ == "__main__":
    main()
