"""Fusing two runs: this toolkit beside ranx, each in fresh processes, in turn and in random order.

usage: python benchmarks/run_fusion.py [--queries 6980] [--depth 1000] [--repeats 3]

Each process makes the same two runs, fuses them once after a small warm-up (ranx compiles on its first call), and
reports the time of the fusion and how far its peak memory rose above what the runs take. Making ranx's runs is not
counted. Writes benchmarks/results/run_fusion.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import random
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import reciprocal_rank_fusion, weighted_sum

WEIGHTS = [0.3, 0.7]
METHODS = ("rrf", "sum")
SAMPLE = 20


def made_run(queries: int, depth: int, seed: int) -> Run:
    """A run over 8.8 million documents; two of other seeds share about an eighth of each query's results."""
    generator = np.random.default_rng(seed)
    ids = np.empty(queries * depth, dtype=np.dtypes.StringDType())
    for query in range(queries):
        pool = np.random.default_rng(query).integers(0, 8_800_000, 8 * depth)
        chosen = np.unique(generator.choice(pool, 2 * depth, replace=False))
        ids[query * depth : (query + 1) * depth] = [str(i) for i in generator.permutation(chosen)[:depth]]
    scores = -np.sort(-generator.random((queries, depth)), axis=1).astype(np.float32).astype(np.float64).ravel()
    return Run(tuple(f"q{q}" for q in range(queries)), np.arange(queries + 1) * depth, ids, scores)


def by_us(runs: list[Run], method: str) -> Any:
    """Fuse with this toolkit."""
    return reciprocal_rank_fusion(runs) if method == "rrf" else weighted_sum(runs, WEIGHTS)


def as_ranx(run: Run) -> Any:
    """The same run for ranx."""
    import ranx

    return ranx.Run({query: dict(zip(ids.tolist(), values.tolist(), strict=True)) for query, ids, values in run})


def by_ranx(runs: list[Any], method: str) -> Any:
    """Fuse with ranx."""
    import ranx

    if method == "rrf":
        return ranx.fuse(runs, norm=None, method="rrf", params={"k": 60})
    return ranx.fuse(runs, norm="min-max", method="wsum", params={"weights": WEIGHTS})


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(system: str, method: str, queries: int, depth: int, answer: Any) -> None:
    """Fuse once and send time, memory and the scores of some queries."""
    fuse, convert = (by_us, lambda run: run) if system == "ibkd" else (by_ranx, as_ranx)
    fuse([convert(made_run(3, min(depth, 50), seed)) for seed in (1, 2)], method)
    runs = [convert(made_run(queries, depth, seed)) for seed in (1, 2)]
    before = peak_bytes()
    started = time.perf_counter()
    fused = fuse(runs, method)
    seconds = time.perf_counter() - started
    names = [f"q{q}" for q in range(min(SAMPLE, queries))]
    if system == "ibkd":
        lists = {query: dict(zip(ids.tolist(), s.tolist(), strict=True)) for query, ids, s in fused if query in names}
    else:
        lists = {query: dict(fused.run[query].items()) for query in names}
    answer.send(json.dumps({"seconds": seconds, "bytes": peak_bytes() - before, "lists": lists}))


def in_fresh_process(*arguments: Any) -> dict[str, Any]:
    """Run `measure` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(*arguments, sending))
    process.start()
    sending.close()
    result: dict[str, Any] = json.loads(receiving.recv())
    process.join()
    return result


def largest_difference(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> float:
    """Between scores of the same documents; ours are rounded to float32, and so are theirs here."""
    assert all(ours[query].keys() == theirs[query].keys() for query in theirs)
    return max(abs(s - float(np.float32(theirs[query][d]))) for query in theirs for d, s in ours[query].items())


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--queries", 6980), ("--depth", 1000), ("--repeats", 3)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args()
    rows = []
    order = random.Random(0)
    for method in METHODS:
        measured: dict[str, list[dict[str, Any]]] = {"ibkd": [], "ranx": []}
        for _ in range(given.repeats):
            for system in order.sample(list(measured), len(measured)):
                measured[system].append(in_fresh_process(system, method, given.queries, given.depth))
        row: dict[str, Any] = {"method": method}
        for system, results in measured.items():
            row[f"{system}_seconds"] = statistics.median(result["seconds"] for result in results)
            row[f"{system}_additional_peak_bytes"] = statistics.median(result["bytes"] for result in results)
        row["largest_difference_after_rounding"] = largest_difference(
            measured["ibkd"][0]["lists"], measured["ranx"][0]["lists"]
        )
        rows.append(row)
        print(row)
    result = {
        "queries": given.queries,
        "depth": given.depth,
        "repeats": given.repeats,
        "rows": rows,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "run_fusion.json", result)


if __name__ == "__main__":
    main()
