"""Encoding speed beside the peers, in one run: documents and passages in bulk, queries one at a time.

    python benchmarks/encode_speed.py --data-dir DIR --models-dir DIR [--operations 400] [--rounds 5] [--threads 1 2]

Every round runs each system once on the same texts, in an order that changes from round to round, with the
processor's matrix peak between them. Peers: SentenceTransformer.encode at its defaults and in bfloat16; its modules in
a plain loop over sorted batches of 4,096 tokens; onnxruntime and openvino used plainly, as fastembed does: 32 texts at
a time, in the order they come, padded to the longest. `--parts memory` measures again the peak memory of encoding few
and ten times as many passages, and nothing else. `--quality MODEL` compares nDCG@10 on all of SciFact in float32
and bfloat16.

A processor with AVX-512 is held to AVX2 by the environment, with a cache of its own for what was measured on it:

    env ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 XDG_CACHE_HOME=DIR python ...

torch, oneDNN, MKL and the matrix products of OpenVINO obey, and so does faiss with FAISS_SIMD_LEVEL=AVX2. ONNX Runtime,
hnswlib, usearch, voyager and SVS have no such setting: their figures are not held.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", "all-mpnet-base-v2")
PEERS_BATCH = 32
LOOP_TOKENS = 4096
QUERY_TOKENS = (8, 32)
BULK = ("abstracts", "passages")
PARTS = ("speed", "memory")

Encode = Callable[[list[str]], NDArray[np.float32]]


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="with the BEIR folders scifact and sure-msmarco")
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--models", nargs="+", default=list(MODELS))
    options.add_argument("--operations", type=float, default=400, help="GFLOP of abstracts that each run encodes")
    options.add_argument("--queries", type=int, default=20, help="of each length")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the rest stays as it was")
    options.add_argument("--quality", nargs="*", default=[], help="models whose nDCG@10 on SciFact is compared")
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encode_speed.json")
    options.add_argument("--memory-of", help=argparse.SUPPRESS)
    options.add_argument("--documents", type=int, default=500, help="of the smaller run whose memory is compared")
    given = options.parse_args()
    if given.memory_of:
        print(json.dumps(peak_of_encoding(given)))
        return
    import torch

    from ibkd_retrieval.encoders.autotune.cpu import processor_features
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    torch.set_num_threads(max(given.threads))
    result: dict[str, Any] = {"models": {}, "quality": {}}
    if given.output.exists():
        result = json.loads(given.output.read_text(encoding="utf-8"))
    packages = {name: metadata.version(name) for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)}
    environment = read_environment().to_json() | {"features": list(processor_features())} | packages
    if "speed" in given.parts:
        result["environment"] = environment
    for name in given.models:
        row = result["models"].get(name, {})
        if "speed" in given.parts:
            row |= {f"{threads} threads": measure(given.models_dir / name, given, threads) for threads in given.threads}
        if "memory" in given.parts:
            row["peak_memory_bytes"] = {
                str(count): memory_in_a_process(name, count, given) for count in (given.documents, 10 * given.documents)
            }
        result["models"][name] = row
        write_json(given.output, result)
        print(json.dumps(row, indent=1), flush=True)
    for name in given.quality:
        result["quality"][name] = quality(given.models_dir / name, given.data_dir / "scifact")
        write_json(given.output, result)
        print(json.dumps(result["quality"][name]), flush=True)


def read_texts(data: Path, encoder: Any, gflop: float, queries: int) -> dict[str, list[str]]:
    """SciFact abstracts, MS MARCO passages as many as there are abstracts, and queries of about 8 and 32 tokens."""
    some = [f"{each['title']} {each['text']}" for each in islice(lines(data / "scifact" / "corpus.jsonl"), 16)]
    count = max(8, round(gflop * 1e9 / (encoder.operations(some) / len(some))))
    found = {
        "abstracts": [
            f"{each['title']} {each['text']}" for each in islice(lines(data / "scifact" / "corpus.jsonl"), count)
        ],
        "passages": [each["text"] for each in islice(lines(data / "sure-msmarco" / "corpus.jsonl"), 2 * count)],
    }
    asked = [
        each["text"]
        for folder in ("sure-msmarco", "scifact")
        for each in islice(lines(data / folder / "queries.jsonl"), 1000)
    ]
    lengths = np.array(encoder.token_counts(asked, "query"))
    for wanted in QUERY_TOKENS:
        nearest = np.argsort(np.abs(lengths - wanted), kind="stable")[:queries]
        found[f"queries of {wanted}"] = [asked[row] for row in nearest]
    return found


def lines(path: Path) -> Iterable[dict[str, str]]:
    """The objects of a JSONL file."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def systems(folder: Path, threads: int) -> dict[str, Encode]:
    """Everything that is measured, the exact one first; converted models on all threads only."""
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.autotune.choice import BackendConfig, candidates
    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast
    from ibkd_retrieval.encoders.encoder import Encoder

    found: dict[str, Encode] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if dtype == torch.float32 or bfloat16_is_fast():
            peer = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
            found[f"sentence-transformers {name}"] = sentence_transformers_loop(peer)
            if dtype != torch.float32:
                found[f"sorted loop {name}"] = sorted_loop(peer)
    for config in candidates("cpu"):
        if config.backend != "torch" and threads == 1:
            continue
        encoder = Encoder.load(str(folder), device="cpu", backend=config.backend, dtype=config.dtype)
        if config.backend == "torch":
            found[f"ibkd {config}"] = encoder.encode
        else:
            found[f"plain {config} loop"] = plain_loop(encoder)
        if config == BackendConfig("openvino", "bfloat16"):
            found[f"ibkd {config}"] = encoder.encode
    return found


def sorted_loop(model: Any) -> Encode:
    """The model's own modules over texts sorted by length, as many at a time as 4,096 tokens allow."""
    import torch

    from ibkd_retrieval.encoders.tokens import pad, token_budget_batches, tokenize

    def encode(texts: list[str]) -> NDArray[np.float32]:
        out = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
        ids = tokenize(model, texts)
        with torch.inference_mode():
            for rows in token_budget_batches([len(each) for each in ids], LOOP_TOKENS):
                vectors = model.forward(pad(model, [ids[row] for row in rows]))["sentence_embedding"].float()
                out[rows] = torch.nn.functional.normalize(vectors).numpy()
        return out

    return encode


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


def measure(folder: Path, given: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Documents a second, milliseconds a query and cosines of every system, round by round in a shuffled order."""
    import torch

    from ibkd_retrieval.encoders.autotune.choice import cosines_between
    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, matrix_peak
    from ibkd_retrieval.encoders.encoder import Encoder

    torch.set_num_threads(threads)
    counter = Encoder.load(str(folder), device="cpu", dtype="float32")
    texts = read_texts(given.data_dir, counter, given.operations, given.queries)
    found = systems(folder, threads)
    exact = {part: counter.encode(texts[part]) for part in BULK}
    seconds: dict[str, dict[str, list[float]]] = {name: {part: [] for part in texts} for name in found}
    cosines = {
        name: np.concatenate([cosines_between(encode(texts[part]), exact[part]) for part in BULK])
        for name, encode in found.items()
    }
    # Without instructions for bfloat16 a product of it takes a minute.
    best = "bfloat16" if bfloat16_is_fast() else "float32"
    peaks: dict[str, list[float]] = {dtype: [] for dtype in dict.fromkeys(("float32", best))}
    order = list(found)
    for number in range(given.rounds):
        random.Random(number).shuffle(order)
        for name in order:
            for part in texts:
                if part in BULK:
                    seconds[name][part].append(timed(found[name], texts[part]))
                else:
                    found[name](texts[part][:1])
                    seconds[name][part] += [timed(found[name], [query]) for query in texts[part]]
        for dtype, measured in peaks.items():
            measured.append(max(matrix_peak(getattr(torch, dtype), size) for size in (1024, 2048)))
    peak = {dtype: max(measured) for dtype, measured in peaks.items()}
    operations = {part: counter.operations(texts[part]) for part in BULK}
    rows = {}
    for name, taken in seconds.items():
        row: dict[str, Any] = {"mean_cosine": cosines[name].mean(), "least_cosine": cosines[name].min()}
        for part in BULK:
            middle = statistics.median(taken[part])
            row[part] = {
                "per_second": len(texts[part]) / middle,
                "slowest": len(texts[part]) / max(taken[part]),
                "fastest": len(texts[part]) / min(taken[part]),
                "gflops": operations[part] / middle / 1e9,
                f"share_of_{best}_peak": operations[part] / middle / peak[best],
            }
        for part in texts:
            if part not in BULK:
                middle, high = np.percentile(1000 * np.array(taken[part]), [50, 95]).tolist()
                row[part] = {"p50_ms": middle, "p95_ms": high}
        rows[name] = row
    tokens = {part: statistics.mean(counter.token_counts(each)) for part, each in texts.items()}
    return {
        "tokens": tokens,
        "texts": {part: len(each) for part, each in texts.items()},
        "rounds": given.rounds,
        "peak_gflops": {dtype: value / 1e9 for dtype, value in peak.items()},
        "peak_gflops_by_round": {dtype: [value / 1e9 for value in each] for dtype, each in peaks.items()},
        "systems": rows,
    }


def quality(folder: Path, data: Path) -> dict[str, Any]:
    """nDCG@10 of exact search on SciFact's test queries, by vectors of float32 and of bfloat16."""
    from ibkd_retrieval.encoders.autotune.choice import cosines_between
    from ibkd_retrieval.encoders.encoder import Encoder

    documents = list(lines(data / "corpus.jsonl"))
    texts = [f"{each['title']} {each['text']}" for each in documents]
    numbers = {each["_id"]: number for number, each in enumerate(documents)}
    judged: dict[str, dict[int, float]] = {}
    for line in (data / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, relevance = line.split("\t")
        judged.setdefault(query, {})[numbers[document]] = float(relevance)
    queries = {each["_id"]: each["text"] for each in lines(data / "queries.jsonl") if each["_id"] in judged}
    found: dict[str, Any] = {}
    vectors = {}
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder.load(str(folder), device="cpu", dtype=dtype)
        vectors[dtype] = encoder.encode(texts)
        scores = encoder.encode(list(queries.values()), "query") @ vectors[dtype].T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        gains = 1 / np.log2(np.arange(2, 12))
        each = []
        for query, ranked in zip(queries, best.tolist(), strict=True):
            relevant = judged[query]
            ideal = np.sort(list(relevant.values()))[::-1][:10]
            each.append(sum(gains * [relevant.get(row, 0.0) for row in ranked]) / (ideal * gains[: len(ideal)]).sum())
        found[dtype] = {"ndcg@10": float(np.mean(each))}
    cosines = cosines_between(vectors["bfloat16"], vectors["float32"])
    return found | {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}


def timed(encode: Encode, texts: list[str]) -> float:
    """Seconds that encoding takes."""
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def memory_in_a_process(name: str, count: int, given: argparse.Namespace) -> int:
    """Peak memory of a process that does nothing but encode passages in shards, as an index build does."""
    command = [sys.executable, __file__, "--data-dir", given.data_dir, "--models-dir", given.models_dir]
    command += ["--memory-of", name, "--documents", count]
    done = subprocess.run(list(map(str, command)), capture_output=True, check=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_of_encoding(given: argparse.Namespace) -> int:
    """Encode passages shard by shard, letting each go; give the most memory this process had."""
    from ibkd_retrieval.encoders.encoder import Encoder

    encoder = Encoder.load(str(given.models_dir / given.memory_of), device="cpu")
    texts = [each["text"] for each in islice(lines(given.data_dir / "sure-msmarco" / "corpus.jsonl"), 250)]
    for start in range(0, given.documents, len(texts)):
        encoder.encode([f"{start} {text}" for text in texts])
    # The most that getrusage knows of includes what the process had that started this one.
    status = Path("/proc/self/status").read_text("ascii", errors="replace")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
