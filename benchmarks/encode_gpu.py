"""Encoding speed on a GPU beside SentenceTransformer.encode, in one run: documents a second, cosine, share of peak.

    python benchmarks/encode_gpu.py --texts texts.jsonl --model FOLDER --model FOLDER --output result.json

The texts are lines of JSON objects with `text` and perhaps `title`. Every round runs each system once on the same
texts, in an order that changes from round to round; medians count. SentenceTransformer.encode runs in float32 at its
defaults and in float32, float16 and bfloat16 at the batch size that is best for it here, which a probe finds first.
`--seconds` bounds the whole: rounds end when it is reached, and the result says how many there were.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

DTYPES = ("float32", "float16", "bfloat16")
BATCH_SIZES = (32, 128, 512)
PROBED = 512

Encode = Callable[[list[str]], NDArray[np.float32]]


def main(
    texts: Annotated[Path, typer.Option(help="JSONL file of documents.")],
    model: Annotated[list[str], typer.Option(help="Model folder; repeat it.")],
    output: Annotated[Path, typer.Option()] = Path(__file__).parent / "results" / "encode_gpu.json",
    documents: Annotated[int, typer.Option(help="Documents to encode in each run.")] = 2048,
    rounds: Annotated[int, typer.Option()] = 5,
    seconds: Annotated[float, typer.Option(help="Time for all models together.")] = 60.0,
    device: Annotated[str, typer.Option()] = "cuda",
) -> None:
    """Measure, print and write the result."""
    import torch

    from ibkd_retrieval.encoders.autotune.cpu import matrix_peak
    from ibkd_retrieval.encoders.device import read_environment

    read = [f"{each.get('title', '')} {each['text']}".strip() for each in islice(lines(texts), documents)]
    size = 1024 if device == "cpu" else 8192
    result: dict[str, Any] = {
        "environment": read_environment().to_json(),
        "card": "" if device == "cpu" else torch.cuda.get_device_name(device),
        "documents": len(read),
        "peak_tflops": {name: matrix_peak(getattr(torch, name), size, device) / 1e12 for name in DTYPES},
        "models": {},
    }
    began = time.perf_counter()
    for number, name in enumerate(model, 1):
        ends = began + seconds * number / len(model)
        result["models"][Path(name).name] = measure(name, read, rounds, device, ends, result["peak_tflops"])
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result["models"][Path(name).name], indent=1), flush=True)
    print(f"{time.perf_counter() - began:.1f} s", flush=True)


def lines(path: Path) -> Any:
    """The objects of a JSONL file."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def measure(
    folder: str, texts: list[str], rounds: int, device: str, ends: float, peaks: dict[str, float]
) -> dict[str, Any]:
    """Documents a second, cosine to float32 and share of peak of every system on one model."""
    from ibkd_retrieval.encoders.autotune.choice import cosines_between

    found, operations, tokens = systems(folder, texts, device)
    exact = found["sentence-transformers float32, 32 texts"](texts)
    cosines = {name: cosines_between(encode(texts), exact) for name, encode in found.items()}
    taken: dict[str, list[float]] = {name: [] for name in found}
    order = list(found)
    for number in range(rounds):
        # The first round is always whole: a system without a figure would be of no use.
        if number and time.perf_counter() + sum(each[-1] for each in taken.values()) > ends:
            break
        random.Random(number).shuffle(order)
        for name in order:
            taken[name].append(timed(found[name], texts, device))
    rows = {}
    for name, spent in taken.items():
        middle = statistics.median(spent)
        dtype = next(each for each in DTYPES if each in name)
        rows[name] = {
            "documents_per_second": len(texts) / middle,
            "slowest": len(texts) / max(spent),
            "fastest": len(texts) / min(spent),
            "tflops": operations / middle / 1e12,
            "share_of_its_peak": operations / middle / 1e12 / peaks[dtype],
            "share_of_bfloat16_peak": operations / middle / 1e12 / peaks["bfloat16"],
            "mean_cosine": float(cosines[name].mean()),
            "least_cosine": float(cosines[name].min()),
        }
    return {"tokens": tokens, "rounds": len(next(iter(taken.values()))), "systems": rows}


def systems(folder: str, texts: list[str], device: str) -> tuple[dict[str, Encode], float, float]:
    """What is measured, the operations of the texts, and their mean length in tokens."""
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.encoder import Encoder

    found: dict[str, Encode] = {}
    for dtype in DTYPES:
        peer = SentenceTransformer(folder, device=device, model_kwargs={"dtype": getattr(torch, dtype)})
        best = max(BATCH_SIZES, key=lambda size: -timed(peers(peer, size), texts[:PROBED], device))
        if dtype == "float32":
            found["sentence-transformers float32, 32 texts"] = peers(peer, 32)
        if dtype != "float32" or best != 32:
            found[f"sentence-transformers {dtype}, {best} texts"] = peers(peer, best)
    for dtype in DTYPES:
        ours = Encoder.load(folder, device=device, dtype=dtype)
        ours.encode(texts[:PROBED])
        found[f"ibkd {dtype}"] = ours.encode
    return found, ours.operations(texts), statistics.mean(ours.token_counts(texts))


def peers(model: Any, size: int) -> Encode:
    """`SentenceTransformer.encode` with so many texts in a batch."""

    def encode(texts: list[str]) -> NDArray[np.float32]:
        found = model.encode(texts, batch_size=size, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(found, np.float32)

    return encode


def timed(encode: Encode, texts: list[str], device: str) -> float:
    """Seconds that encoding takes, everything on the device done."""
    import torch

    start = time.perf_counter()
    encode(texts)
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
