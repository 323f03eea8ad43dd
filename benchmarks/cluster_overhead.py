"""What a cluster costs and gains: the same build in one process, on one node, on two nodes, and in two processes.

    python benchmarks/cluster_overhead.py --data-dir DIR --models-dir DIR [--documents 3000] [--rounds 5]

The cluster is a head without CPUs and two nodes of one CPU on this machine. One node is the same cluster with one
encoder at once. Every encoder has one thread. The builds take turns, in an order that changes from round to round. A
rate counts from the first shard of every encoder to the last document, so that no rate includes the loading of a model.
The start of Ray, the connection, and the first answer of a node, which loads the model, are reported beside the rates.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.ray_nodes import started


class Clock:
    """A `Progress` that keeps when documents were encoded."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.advances: list[tuple[float, int]] = []
        self._counts = False

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Clock]:
        """Count the documents of the encoding."""
        self._counts = title == "Encoding documents"
        yield self
        self._counts = False

    def advance(self, count: int = 1, note: str = "") -> None:
        """Keep the time."""
        if self._counts:
            self.advances.append((time.perf_counter(), count))

    def say(self, message: str) -> None:
        """Nothing to show."""

    def per_second(self, skipped: int) -> float:
        """Documents a second after the first `skipped`."""
        done = 0
        for at, count in self.advances:
            done += count
            if done >= skipped:
                rest = sum(count for _, count in self.advances) - done
                return rest / (self.advances[-1][0] - at)
        raise ValueError("too few documents")


class Way(NamedTuple):
    """A way to encode.

    Attributes:
        encoders: number of encoders.
        processes: what encodes, or None for this process.
    """

    encoders: int
    processes: Any


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="with the BEIR folder scifact")
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--work-dir", type=Path, required=True, help="for the indexes, which are removed")
    options.add_argument("--model", default="paraphrase-MiniLM-L3-v2")
    options.add_argument("--documents", type=int, default=3000)
    options.add_argument("--shard-size", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cluster_overhead.json")
    given = options.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"

    import ray

    import ibkd_retrieval as ibkd
    from ibkd_retrieval.cluster import Cluster
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.files import write_json
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
    from ibkd_retrieval.indexing.building.workers import EncoderProcesses, LoadEncoder

    documents = list(islice(ibkd.open_corpus(str(given.data_dir / "scifact")).documents(), given.documents))
    corpus = Corpus("scifact", len(documents), lambda: iter(documents))
    load = LoadEncoder(str(given.models_dir / given.model), device="cpu", dtype="float32", batch_tokens=4096)
    encoder = Encoder.load(load.name, device="cpu", dtype="float32", batch_tokens=4096)
    began = time.perf_counter()
    with started() as cluster:
        start = time.perf_counter() - began
        began = time.perf_counter()
        ray.init(address=cluster.address, log_to_driver=False)
        connection = time.perf_counter() - began
        on = partial(ClusterEncoders, load=load, weight_hash=encoder.weight_hash)
        ways = {
            "one process": Way(1, None),
            "one node": Way(1, on(Cluster("auto", 1))),
            "two nodes": Way(2, on(Cluster("auto"))),
            "two processes": Way(2, EncoderProcesses(2, load)),
        }

        def measured(way: Way) -> tuple[Clock, Any]:
            shutil.rmtree(given.work_dir / "i", ignore_errors=True)
            clock = Clock()
            folder = given.work_dir / "i"
            made = build_index(
                corpus, encoder, folder, shard_size=given.shard_size, processes=way.processes, progress=clock
            )
            return clock, made.files

        first, _ = measured(ways["two nodes"])  # The nodes load the model here, and keep it.
        rates: dict[str, list[float]] = {name: [] for name in ways}
        files = []
        for number in range(given.rounds):
            for name in random.Random(number).sample(list(ways), len(ways)):
                clock, made = measured(ways[name])
                rates[name].append(clock.per_second(ways[name].encoders * given.shard_size))
                files.append(made)
                print(f"{name}: {rates[name][-1]:.1f} documents/s", flush=True)
        ray.shutdown()
    shutil.rmtree(given.work_dir / "i", ignore_errors=True)

    def ratio(one: str, other: str) -> dict[str, float]:
        each = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
        return {"median": statistics.median(each), "least": min(each), "most": max(each)}

    result = {
        "model": given.model,
        "documents": len(documents),
        "shard_size": given.shard_size,
        "rounds": given.rounds,
        "threads_of_an_encoder": 1,
        "start_of_ray_seconds": round(start, 1),
        "connection_seconds": round(connection, 1),
        "first_answer_seconds": round(first.advances[0][0] - first.began, 1),
        "documents_per_second": {
            name: {"median": statistics.median(each), "least": min(each), "most": max(each)}
            for name, each in rates.items()
        },
        "one node / one process": ratio("one node", "one process"),
        "two nodes / one node": ratio("two nodes", "one node"),
        "two nodes / two processes": ratio("two nodes", "two processes"),
        "two processes / one process": ratio("two processes", "one process"),
        "same_files": all(each == files[0] for each in files),
        "environment": read_environment().to_json(),
        "ray": ray.__version__,
    }
    write_json(given.output, result)
    print({name: value for name, value in result.items() if name != "environment"})


if __name__ == "__main__":
    main()
