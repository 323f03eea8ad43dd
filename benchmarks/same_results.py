"""Digests of what encoding, distilling, indexing, searching and scoring give on a small fixed corpus.

usage: python benchmarks/same_results.py [--against FILE]

Run it on two revisions on one machine: equal lines mean equal bits. It runs `python -m ibkd_cli`, so that another
revision is measured by naming its folders in PYTHONPATH. With --against, lines that differ from those of a file are
shown, and the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent.parent / "tests" / "fixtures" / "older"
INPUTS = ("teacher", "docs.jsonl", "new.jsonl", "queries.jsonl", "qrels.txt")
METRICS = ("ndcg@10", "mrr@10", "recall@100", "map@100", "ndcg_burges@10", "rbp.8", "bpref")
TYPES = ("flat", "ivf-pq", "ivf-flat", "hnsw", "sq8", "rabitq")


def main() -> None:
    """Print a line for each result: a digest and what it is of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="lines that another revision printed")
    against = parser.parse_args().against
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in INPUTS:
            (shutil.copytree if (DATA / name).is_dir() else shutil.copy)(DATA / name, work / name)
        found = []
        for line in results(work):
            print(line, flush=True)
            found.append(line)
    if against is not None:
        differing = sorted(set(found) ^ set(against.read_text().splitlines()))
        print(*(differing or ["equal"]), sep="\n")
        sys.exit(bool(differing))


def results(work: Path) -> Iterator[str]:
    """Run everything in a folder with the inputs."""

    def ibkd(*args: object) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(work / "home")}
        program = [sys.executable, "-m", "ibkd_cli", *map(str, args), "--quiet"]
        done = subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"ibkd {' '.join(map(str, args))}: {done.stderr}")
        return done.stdout

    def scored(run: str) -> str:
        metrics = [word for metric in METRICS for word in ("--metric", metric)]
        answer = json.loads(ibkd("eval", "--run", run, "--qrels", "qrels.txt", "--json", *metrics))
        kept = {name: answer[name] for name in (*METRICS, "intervals")}
        return f"{digest(json.dumps(kept, sort_keys=True).encode())} scores of {run}"

    tiny = ("--teacher", "teacher", "--corpus", "docs.jsonl", "--max-documents", 300, "--seed", 5, "--device", "cpu")
    pace = (
        "--layers",
        1,
        "--dim",
        8,
        "--steps",
        12,
        "--batch-size",
        16,
        "--bank-size",
        24,
        "--eval-every",
        6,
        "--max-length",
        24,
    )
    for objective in ("ibkd", "kl", "crd"):
        ibkd("distill", *tiny, *pace, "--objective", objective, "--dtype", "float32", "--output", objective)
        yield f"{digest((work / objective / 'model.safetensors').read_bytes())} student by {objective}"
    for model in ("ibkd", "teacher", "all-MiniLM-L6-v2"):
        for dtype in ("float32", "bfloat16"):
            output = f"flat-{model}-{dtype}"
            options = ("--model", model, "--dtype", dtype, "--device", "cpu", "--batch-tokens", 2048)
            ibkd("index", "--corpus", "docs.jsonl", "--output", output, "--shard-size", 400, *options)
            yield f"{digest_of(work / output / 'vectors')} vectors of {model} in {dtype}"
    asking = ("--queries", "queries.jsonl", "--k", 50, "--dtype", "float32", "--device", "cpu")
    for family in TYPES:
        ibkd("index", "--from", "flat-teacher-float32", "--type", family, "--output", family)
        ibkd(
            "index", "--append", "--corpus", "new.jsonl", "--model", "teacher", "--output", family, "--dtype", "float32"
        )
        ibkd("search", "--index", family, "--model", "teacher", "--output", f"{family}.trec", *asking)
        yield f"{digest(ranked(work / f'{family}.trec'))} run of {family}"
        yield scored(f"{family}.trec")
    words = {"bm25": ("--engine", "bm25"), "rrf": ("--hybrid", "rrf"), "sum": ("--hybrid", "sum")}
    for name, options in words.items():
        ibkd("search", "--index", "flat", "--model", "teacher", "--output", f"{name}.trec", *options, *asking)
        yield f"{digest(ranked(work / f'{name}.trec'))} run of {name}"
        yield scored(f"{name}.trec")


def ranked(run: Path) -> bytes:
    """A run without its tags, which name folders."""
    return "\n".join(" ".join(line.split()[:5]) for line in run.read_text().splitlines()).encode()


def digest(data: bytes) -> str:
    """The first 64 bits of a SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()[:16]


def digest_of(folder: Path) -> str:
    """The digest of all files in a folder, in the order of their names."""
    return digest(b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()))


if __name__ == "__main__":
    main()
