"""What this toolkit's search costs beyond faiss: a batch, one query, and the start of the command.

usage: python benchmarks/search_throughput.py --models-dir DIR --work-dir DIR

DIR/all-MiniLM-L6-v2 encodes the questions that are typed. The index, random unit vectors with made-up texts, is kept
in the work folder. Writes benchmarks/results/search_throughput.json, or --output.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, Document, Query
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss
from ibkd_retrieval.indexing.format.layout import MANIFEST, STRUCTURE
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.runs.run_files import write_run
from ibkd_retrieval.search.searcher import Searcher

WORDS = (
    "river",
    "bank",
    "water",
    "boat",
    "fish",
    "lake",
    "rain",
    "storm",
    "cloud",
    "wind",
    "sun",
    "snow",
    "stone",
    "hill",
)
QUESTION = "which fish swim from the lake to the river"

# Seconds of each part of `ibkd search QUESTION`, one process each, in the order the command does them.
START = """
import json, sys, time
took, last = {}, time.perf_counter()
def done(what):
    global last
    now = time.perf_counter()
    took[what], last = now - last, now
import ibkd_cli.app
done("import command line")
from ibkd_retrieval.indexing.index import open_index
index = open_index(sys.argv[1])
done("open index")
from ibkd_retrieval.encoders.encoder import Encoder
import sentence_transformers
done("import torch and sentence-transformers")
made_by = index.manifest.encoder
encoder = Encoder.load(made_by.name, max_length=made_by.max_length)
done("load model")
from ibkd_retrieval.search.searcher import Searcher
searcher = Searcher(index, encoder)
searcher.search(sys.argv[2])
done("first search")
searcher.search(sys.argv[2])
done("second search")
print(json.dumps(took))
"""
COMMAND = "from ibkd_cli.app import main; main()"


class Precomputed:
    """Stands in for `model` with vectors that are ready: the text "7" has row 7 of the table."""

    def __init__(self, model: Encoder, table: np.ndarray) -> None:
        for name in ("name", "weight_hash", "dim", "max_length", "prompts", "pooling", "dtype", "device"):
            setattr(self, name, getattr(model, name))
        self._table = table

    def encode(self, texts: Sequence[str], kind: str = "document", progress: Any = None) -> np.ndarray:
        """Look the vectors up."""
        return self._table[[int(text.split()[0]) for text in texts]]


def unit_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Random directions, float32 [count, dim]."""
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made_index(folder: Path, documents: int, model: Encoder) -> None:
    """Build the index unless it is there."""
    if (folder / MANIFEST).exists():
        return
    generator = np.random.default_rng(1)

    def texts() -> list[Document]:
        return [Document(f"document-{i}", f"{i} {' '.join(generator.choice(WORDS, 60))}") for i in range(documents)]

    build_index(Corpus("made-up", documents, texts), Precomputed(model, unit_vectors(documents, model.dim, 0)), folder)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(works: Mapping[str, Callable[[], object]], order: np.random.Generator) -> dict[str, float]:
    """Seconds of one call of each, in random order: what comes later finds caches that are warm."""
    return {name: timed(works[name]) for name in order.permutation(list(works)).tolist()}


def batch(index: Any, encoder: Precomputed, vectors: np.ndarray, k: int, rounds: int, work: Path) -> dict[str, Any]:
    """A run of all queries against one bare call of faiss, in turn and in random order."""
    structure = load_faiss().read_index(str(index.folder / STRUCTURE))
    queries = [Query(f"q{i}", str(i)) for i in range(len(vectors))]
    searcher = Searcher(index, encoder)
    blas_threshold(index.manifest.dim)
    structure.search(vectors[:300], k)
    searcher.search_batch(queries[:300], k)
    works = {"faiss": lambda: structure.search(vectors, k), "ours": lambda: searcher.search_batch(queries, k)}
    order = np.random.default_rng(4)
    took = [in_turn(works, order) for _ in range(rounds)]
    bare, ours = ([each[name] for each in took] for name in works)
    run = searcher.search_batch(queries, k)
    writing = timed(lambda: write_run(run, work / "run.trec"))
    return {
        "queries": len(vectors),
        "k": k,
        "faiss_seconds": bare,
        "search_batch_seconds": ours,
        "ratio": float(np.median(ours) / np.median(bare)),
        "median_of_ratios": float(np.median(np.array(ours) / np.array(bare))),
        "write_run_seconds": writing,
    }


def single(index: Any, encoder: Precomputed, model: Encoder, vectors: np.ndarray, count: int) -> dict[str, Any]:
    """One query at a time, k = 10: what is added to faiss, with vectors ready and with encoding."""
    structure = load_faiss().read_index(str(index.folder / STRUCTURE))
    ready, encoding = Searcher(index, encoder), Searcher(index, model)
    order = np.random.default_rng(2)

    def ask(row: int) -> list[float]:
        text = f"{QUESTION} {row}"
        works = {
            "faiss": lambda: structure.search(vectors[row : row + 1], 10),
            "ready vector": lambda: ready.search(str(row), 10),
            "encode": lambda: model.encode([text], "query"),
            "text": lambda: encoding.search(text, 10),
        }
        took = in_turn(works, order)
        return [took[name] for name in works]

    rows = [ask(row) for row in order.permutation(len(vectors))[: count + 20].tolist()]
    # The first few warm caches and pools.
    bare, with_vector, encode, with_text = 1000 * np.array(rows[20:]).T
    return {
        "queries": count,
        "k": 10,
        "faiss_ms": float(np.median(bare)),
        "search_ready_vector_ms": float(np.median(with_vector)),
        "added_ms": float(np.median(with_vector - bare)),
        "encode_ms": float(np.median(encode)),
        "search_with_encoding_ms": float(np.median(with_text)),
        "added_with_encoding_ms": float(np.median(with_text - bare - encode)),
    }


def start(folder: Path, rounds: int) -> dict[str, Any]:
    """Each part of the command's start, and the whole command, in processes of their own."""
    parts, whole = [], []
    for _ in range(rounds):
        told = subprocess.run(
            [sys.executable, "-c", START, str(folder), QUESTION], check=True, capture_output=True, text=True
        )
        parts.append(json.loads(told.stdout))
        command = [sys.executable, "-c", COMMAND, "search", QUESTION, "--index", str(folder), "--json", "--quiet"]
        whole.append(timed(lambda command=command: subprocess.run(command, check=True, capture_output=True)))
    return {
        "seconds": {name: float(np.median([each[name] for each in parts])) for name in parts[0]},
        "ibkd_search_seconds": float(np.median(whole)),
        "rounds": rounds,
    }


def main() -> None:
    """Measure all three and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    for name, default in (("documents", 100_000), ("queries", 6_980), ("k", 1_000), ("rounds", 5), ("singles", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "search_throughput.json")
    given = parser.parse_args()
    faiss = load_faiss()
    model = Encoder.load(str(given.models_dir / "all-MiniLM-L6-v2"))
    folder = given.work_dir / f"random-{given.documents}"
    made_index(folder, given.documents, model)
    index = open_index(folder)
    vectors = unit_vectors(given.queries, model.dim, 3)
    encoder = Precomputed(model, vectors)
    result = {
        "index": f"flat, {given.documents:,} x {model.dim}",
        "threads": faiss.omp_get_max_threads(),
        "batch": batch(index, encoder, vectors, given.k, given.rounds, given.work_dir),
        "single": single(index, encoder, model, vectors, min(given.singles, given.queries - 20)),
        "start": start(folder, given.rounds),
        "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    print(json.dumps({key: result[key] for key in ("batch", "single", "start")}, indent=2))
    write_json(given.output, result)


if __name__ == "__main__":
    main()
