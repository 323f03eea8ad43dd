"""Documents a second of the whole build against the encoder's bare speed, and peak memory against the budget.

usage: python benchmarks/index_pipeline.py --corpus CORPUS --model MODEL --work-dir DIR [--sizes 2000 8000]

Each measurement runs in a process of its own; bare encoding and the whole build take turns, and medians are compared.
Bare encoding is `Encoder.encode` on the texts of the same documents, in memory, in shards of the same size.
Writes benchmarks/results/index_pipeline.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.corpora.resolve import open_corpus
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.evaluation.environment import read_environment
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.memory import parse_size, plan_memory


def first(corpus: Corpus, count: int) -> Corpus:
    """The first documents of a corpus."""
    return Corpus(f"{corpus.name} (first {count})", count, lambda: islice(corpus.documents(), count))


def measure(job: str, given: argparse.Namespace, count: int) -> dict[str, Any]:
    """One measurement, in this process."""
    encoder = Encoder.load(given.model)
    corpus = first(open_corpus(given.corpus), count)
    plan = plan_memory(parse_size(given.memory), dim=encoder.dim, batch_tokens=4096, shard_size=given.shard_size)
    encoder.encode(["warm up"] * 8)
    texts = [document.content for document in corpus.documents()] if job == "bare" else []
    start = time.perf_counter()
    if job == "bare":
        for place in range(0, len(texts), plan.shard_size):
            encoder.encode(texts[place : place + plan.shard_size])
    else:
        folder = given.work_dir / f"built-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        build_index(corpus, encoder, folder, memory=plan)
    seconds = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"documents_per_second": count / seconds, "peak_bytes": peak, "environment": read_environment().to_json()}


def main() -> None:
    """Measure both, in turn, at each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs=2, default=(2000, 8000))
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--memory", default="1500MB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", choices=("bare", "build"), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        print(json.dumps(measure(given.job, given, given.count)))
        return
    rows, environment = [], {}
    for count in given.sizes:
        found: dict[str, list[dict[str, Any]]] = {"bare": [], "build": []}
        for _ in range(given.repeats):
            for job, results in found.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--job", job, "--count", str(count)]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                results.append(json.loads(line))
        environment = found["build"][0]["environment"]
        speed = {job: statistics.median(r["documents_per_second"] for r in results) for job, results in found.items()}
        peak = max(result["peak_bytes"] for result in found["build"])
        rows.append(
            {
                "documents": count,
                "bare_documents_per_second": round(speed["bare"], 1),
                "build_documents_per_second": round(speed["build"], 1),
                "build_over_bare": round(speed["build"] / speed["bare"], 3),
                "peak_bytes": peak,
                "memory_budget_bytes": parse_size(given.memory),
                "within_budget": peak <= parse_size(given.memory),
            }
        )
        print(rows[-1])
    result = {
        "what": "whole build (read, tokenise, encode, write, checksum, sync, structure) against bare encoding",
        "corpus": Path(given.corpus).name,
        "model": Path(given.model).name,
        "shard_size": given.shard_size,
        "repeats": given.repeats,
        "rows": rows,
        "date": datetime.date.today().isoformat(),
        "environment": environment,
    }
    write_json(Path(__file__).parent / "results" / "index_pipeline.json", result)


if __name__ == "__main__":
    main()
