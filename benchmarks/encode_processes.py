"""One process with all threads against a process for each core, pinned to it or not: documents a second in one run.

    python benchmarks/encode_processes.py --data-dir DIR --models-dir DIR [--model paraphrase-MiniLM-L3-v2]

Every process loads its own model once; then each way encodes the same abstracts in turn, in an order that changes from
round to round, several processes every second text each, until the last of them is done.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

# Threads that wait for work spin, and would take the cores from the way that is measured next.
_PAUSE = 0.3


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="with the BEIR folder scifact")
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--model", default="paraphrase-MiniLM-L3-v2")
    options.add_argument("--documents", type=int, default=400)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encode_processes.json")
    given = options.parse_args()
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    cores = len(os.sched_getaffinity(0))
    with open(given.data_dir / "scifact" / "corpus.jsonl", encoding="utf-8") as file:
        texts = [f"{each['title']} {each['text']}" for each in map(json.loads, islice(file, given.documents))]
    folder = str(given.models_dir / given.model)
    ways = {
        f"one process, {cores} threads": started(folder, 1, pinned=False),
        f"{cores} processes": started(folder, cores, pinned=False),
        f"{cores} processes, pinned": started(folder, cores, pinned=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, given.rounds):
        for name in random.Random(number).sample(list(ways), len(ways)):
            time.sleep(_PAUSE)
            seconds = timed(ways[name], texts)
            if number >= 0:  # The one before warms up.
                taken[name].append(seconds)
    first = next(iter(ways))
    rows: dict[str, Any] = {}
    for name, each in taken.items():
        ratios = [one / other for one, other in zip(taken[first], each, strict=True)]
        rows[name] = {
            "per_second": len(texts) / statistics.median(each),
            "slowest": len(texts) / max(each),
            "fastest": len(texts) / min(each),
            "gain": statistics.median(ratios),
            "least_gain": min(ratios),
            "greatest_gain": max(ratios),
        }
    result = {"model": given.model, "documents": len(texts), "rounds": given.rounds, "ways": rows}
    print(json.dumps(result, indent=1))
    write_json(given.output, result | {"environment": read_environment().to_json()})
    for way in ways.values():
        for connection in way:
            connection.send(None)


def started(folder: str, count: int, *, pinned: bool) -> list[Any]:
    """Connections to `count` processes that have loaded the model and wait for texts."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for number in range(count):
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(theirs, folder, number, count, pinned), daemon=True).start()
        connections.append(ours)
    for connection in connections:
        connection.recv()
    return connections


def work(connection: Any, folder: str, number: int, count: int, pinned: bool) -> None:
    """A process's life: load on an equal part of the cores, then encode what comes."""
    from ibkd_retrieval.indexing.building.workers import available_threads, take_share

    threads = max(1, available_threads() // count)
    if pinned:
        take_share(number, count)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    from ibkd_retrieval.encoders.encoder import Encoder

    torch.set_num_threads(threads)
    encoder = Encoder.load(folder, device="cpu")
    connection.send(encoder.dtype)
    while (texts := connection.recv()) is not None:
        encoder.encode(texts)
        connection.send(len(texts))


def timed(connections: list[Any], texts: list[str]) -> float:
    """Seconds until all processes have encoded their share."""
    start = time.perf_counter()
    for number, connection in enumerate(connections):
        connection.send(texts[number :: len(connections)])
    for connection in connections:
        connection.recv()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
