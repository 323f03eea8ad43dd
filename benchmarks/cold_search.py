"""Whole-process time of `ibkd search "a question"`, beside a script of sentence-transformers and faiss, in one run.

    python benchmarks/cold_search.py --index FOLDER [--index FOLDER ...] [--rounds 5] [--output FILE]

The indexes are flat. In each round every system runs once, in an order that changes from round to round:

- first: without a record of the model in the cache (`encoders/quick.py`);
- later: with the record that an earlier search has left, in the number format that the processor is fast at, and in
  float32, the format of processors without instructions for bfloat16;
- by hand: a script that loads the model with sentence-transformers, reads a faiss index of the same vectors, and
  searches it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

QUESTION = "how do I split a list into parts of equal size"
BY_HAND = """
import sys
import faiss
from sentence_transformers import SentenceTransformer
index = faiss.read_index(sys.argv[1])
model = SentenceTransformer(sys.argv[2], device="cpu")
scores, rows = index.search(model.encode_query([sys.argv[3]], normalize_embeddings=True), 10)
print(*rows[0])
"""


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--index", type=Path, action="append", required=True)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cold_search.json")
    given = options.parse_args()
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    result: dict[str, Any] = {}
    for index in given.index:
        result[index.name] = measure(index.resolve(), given.rounds)
        print(index.name, json.dumps(result[index.name]))
    packages = {name: metadata.version(name) for name in ("tokenizers", "safetensors")}
    what = {"question": QUESTION, "rounds": given.rounds, "date": datetime.date.today().isoformat()}
    write_json(given.output, {"seconds": result, **what, "environment": read_environment().to_json() | packages})


def measure(index: Path, rounds: int) -> dict[str, Any]:
    """The times of every system for one index, in seconds: median, least and most."""
    import faiss
    import numpy as np

    from ibkd_retrieval.encoders.loading import resolve_model_name
    from ibkd_retrieval.indexing.index import open_index

    stored = open_index(index)
    model = resolve_model_name(stored.manifest.encoder.name)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        bare = faiss.IndexFlatIP(stored.manifest.dim)
        vectors = [np.load(path).astype(np.float32) for path in sorted((index / "vectors").glob("*.npy"))]
        bare.add(np.concatenate(vectors))
        faiss.write_index(bare, f"{work}/bare.faiss")
        search = [sys.executable, "-m", "ibkd_cli", "search", QUESTION, "--index", str(index), "--quiet"]
        commands = {
            "first": (search, "first"),
            "later": (search, "later"),
            "later, float32": ([*search, "--dtype", "float32"], "later"),
            "by hand": ([sys.executable, "-c", BY_HAND, f"{work}/bare.faiss", model, QUESTION], "later"),
        }
        for name in ("later", "later, float32"):
            run(commands[name][0], f"{work}/later")  # leaves the record, and reads every file once
        for number in range(rounds):
            for name in random.Random(number).sample(sorted(commands), len(commands)):
                command, cache = commands[name]
                cache = f"{work}/{cache}{number if cache == 'first' else ''}"
                seconds.setdefault(name, []).append(run(command, cache))
    shown = {
        name: [round(value, 3) for value in (statistics.median(found), min(found), max(found))]
        for name, found in seconds.items()
    }
    return {"documents": stored.manifest.document_count, "model": stored.manifest.encoder.called, **shown}


def run(command: list[str], cache: str) -> float:
    """Run a command to its end, and return its seconds."""
    environment = os.environ | {"XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
