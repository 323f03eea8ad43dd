"""Encoding speed beside the peers, in one run: documents and passages in bulk, queries one at a time.

    python benchmarks/encode_speed.py --data-dir DIR --models-dir DIR [--documents 256] [--rounds 5] [--threads 2]

Every round runs each system once on the same texts, in an order that changes from round to round. Peers:
SentenceTransformer.encode at its defaults and in the formats that are fast here; onnxruntime and openvino used plainly,
as fastembed does: 32 texts at a time, in the order they come, padded to the longest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2", "all-mpnet-base-v2")
PASSAGE_WORDS = 56  # MS MARCO's passages have that many on average.
PEERS_BATCH = 32

Encode = Callable[[list[str]], NDArray[np.float32]]


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="folder with the BEIR folder `scifact`")
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--models", nargs="+", default=list(MODELS))
    options.add_argument("--documents", type=int, default=256)
    options.add_argument("--queries", type=int, default=50)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encode_speed.json")
    options.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    if given.memory_of:
        print(json.dumps(peak_of_encoding(given)))
        return
    import torch

    from ibkd_retrieval.encoders.machine import matrix_peak, processor_features
    from ibkd_retrieval.evaluation.environment import read_environment
    from ibkd_retrieval.files import write_json

    torch.set_num_threads(given.threads)
    texts = read_texts(given.data_dir / "scifact", given.documents, given.queries)
    result: dict[str, Any] = {
        "environment": read_environment().to_json() | {"features": list(processor_features())},
        "threads": given.threads,
        "rounds": given.rounds,
        "float32_peak_gflops": matrix_peak(torch.float32, 2048) / 1e9,
        "models": {},
    }
    for name in given.models:
        result["models"][name] = measure(given.models_dir / name, texts, given.rounds)
        result["models"][name]["peak_memory_bytes"] = {
            str(count): memory_in_a_process(name, count, given) for count in (given.documents, 10 * given.documents)
        }
        write_json(given.output, result)
        print(json.dumps(result["models"][name], indent=1))


def read_texts(folder: Path, documents: int, queries: int) -> dict[str, list[str]]:
    """SciFact abstracts, their beginnings of the length of MS MARCO's passages, and its queries."""
    abstracts = [f"{each['title']} {each['text']}" for each in islice(lines(folder / "corpus.jsonl"), documents)]
    return {
        "abstracts": abstracts,
        "passages": [" ".join(text.split()[:PASSAGE_WORDS]) for text in abstracts],
        "queries": [each["text"] for each in islice(lines(folder / "queries.jsonl"), queries)],
    }


def lines(path: Path) -> Iterable[dict[str, str]]:
    """The objects of a JSONL file."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def systems(folder: Path, sample: list[str]) -> dict[str, Encode]:
    """Everything that is measured, the exact one first."""
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.choice import load_candidates
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.machine import bfloat16_is_fast

    def load(backend: str, dtype: str) -> Encoder:
        return Encoder.load(str(folder), device="cpu", backend=backend, dtype=dtype, sample=sample)

    ours = load_candidates(load, "cpu")
    found: dict[str, Encode] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if dtype == torch.float32 or bfloat16_is_fast():
            peer = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
            found[f"sentence-transformers {name}"] = sentence_transformers_loop(peer)
    for way, encoder in ours.items():
        found[f"ibkd {way}"] = encoder.encode
        if way.backend != "torch":
            found[f"plain {way} loop"] = plain_loop(encoder)
    return found


def sentence_transformers_loop(model: Any) -> Encode:
    """`SentenceTransformer.encode` as it comes."""
    return lambda texts: np.asarray(model.encode(texts, show_progress_bar=False, normalize_embeddings=True), np.float32)


def plain_loop(encoder: Any) -> Encode:
    """The same runtime and file, used plainly: texts in the order they come, 32 at a time, padded to the longest."""
    from ibkd_retrieval.encoders.tokens import pad_ids, tokenize

    def encode(texts: list[str]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), PEERS_BATCH):
            tokens = pad_ids(tokenize(encoder._model, texts[start : start + PEERS_BATCH]), 0)
            states = next(iter(encoder._backend(tokens).values())).numpy()
            mask = tokens.full_mask[..., None].astype(np.float32)
            means = (states * mask).sum(1) / mask.sum(1)
            parts.append(means / np.linalg.norm(means, axis=1, keepdims=True))
        return np.concatenate(parts)

    return encode


def measure(folder: Path, texts: dict[str, list[str]], rounds: int) -> dict[str, Any]:
    """Documents a second, milliseconds a query and cosines of every system, round by round in a shuffled order."""
    from ibkd_retrieval.encoders.choice import cosines_between
    from ibkd_retrieval.encoders.encoder import Encoder

    found = systems(folder, texts["abstracts"][:96])
    bulk = ("abstracts", "passages")
    exact = {name: next(iter(found.values()))(texts[name]) for name in bulk}
    seconds: dict[str, dict[str, list[float]]] = {name: {part: [] for part in (*bulk, "queries")} for name in found}
    cosines: dict[str, NDArray[np.float64]] = {}
    for name, encode in found.items():
        cosines[name] = np.concatenate([cosines_between(encode(texts[part]), exact[part]) for part in bulk])
    order = list(found)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            for part in bulk:
                seconds[name][part].append(timed(found[name], texts[part]))
            found[name](texts["queries"][:1])
            seconds[name]["queries"] += [timed(found[name], [query]) for query in texts["queries"]]
    counter = Encoder.load(str(folder), device="cpu", dtype="float32")
    operations = {part: counter.operations(texts[part]) for part in bulk}
    rows = {}
    for name, taken in seconds.items():
        row: dict[str, Any] = {"mean_cosine": cosines[name].mean(), "least_cosine": cosines[name].min()}
        for part in bulk:
            middle = statistics.median(taken[part])
            row[part] = {
                "per_second": len(texts[part]) / middle,
                "slowest": len(texts[part]) / max(taken[part]),
                "fastest": len(texts[part]) / min(taken[part]),
                "gflops": operations[part] / middle / 1e9,
            }
        row["queries_ms"] = dict(
            zip(("p50", "p95"), np.percentile(1000 * np.array(taken["queries"]), [50, 95]).tolist(), strict=True)
        )
        rows[name] = row
    tokens = {part: statistics.mean(counter.token_counts(texts[part])) for part in (*bulk, "queries")}
    return {"tokens": tokens, "systems": rows}


def timed(encode: Encode, texts: list[str]) -> float:
    """Seconds that encoding takes."""
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def memory_in_a_process(name: str, count: int, given: argparse.Namespace) -> int:
    """Peak memory of a process that does nothing but encode passages in shards, as an index build does."""
    command = [sys.executable, __file__, "--data-dir", given.data_dir, "--models-dir", given.models_dir]
    command += ["--memory-of", name, "--documents", count, "--threads", given.threads]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_of_encoding(given: argparse.Namespace) -> int:
    """Encode passages shard by shard, letting each go; give the most memory this process had."""
    import resource

    from ibkd_retrieval.encoders.encoder import Encoder

    encoder = Encoder.load(str(given.models_dir / given.memory_of), device="cpu")
    texts = read_texts(given.data_dir / "scifact", 256, 1)["passages"]
    for start in range(0, given.documents, len(texts)):
        encoder.encode([f"{start} {text}" for text in texts])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
