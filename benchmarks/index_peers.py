"""Our hnsw and ivf-pq beside the indexes of other libraries: recall against speed, memory, build time.

usage: python benchmarks/index_peers.py --vectors FOLDER [...] --work-dir DIR [--count 1000000 | --real]

FOLDER holds .npy files of real unit vectors, which are replicated (replicated_vectors.py) to `--count`, or taken as
they are (`--real`). Every index is built in a process of its own and kept in DIR, by number and `--seed`, so that the
script goes on where it was stopped. The memory of each is that of a fresh process after it was loaded and has answered.
Then all are loaded into one process and asked in turn, query by query, system and parameter value in random order, in
one thread: what else the machine does hits all alike.

A system whose build takes longer than --limit seconds is named with that, and left out; with a higher limit it is tried
again. How many candidates of ours are scored exactly is set by hand for each parameter value (peers.py), that of faiss
once.

Writes benchmarks/results/index_peers.json and .png (--output). Needs matplotlib, hnswlib, usearch, voyager,
scalable-vs and autofaiss (which asks for numpy 1, but works with 2: pip install --no-deps autofaiss embedding-reader
fire). With a million vectors of 384 dimensions: 14 GB of disk, 14 GB of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.index import open_index
from measuring import Watch, ask_in_turn, exact_neighbours, memory, quantiles, recall
from peers import Loaded, Peer, all_peers, file_of, size_of
from replicated_vectors import CHUNK, QUERIES, RealVectors, Replicas, numbered, read_real

K = 10


class Unchanged(Replicas):
    """The real vectors themselves, in place of replicas. They are stored as float16 too."""

    def __init__(self, real: RealVectors, seed: int) -> None:
        super().__init__(real, seed)
        self.name, self.weight_hash = "real vectors", f"{len(real.rows)}-{seed}"

    def _chunk(self, number: int) -> NDArray[np.float32]:
        rows = self._real.rows[number * CHUNK : (number + 1) * CHUNK]
        return rows.astype(np.float16).astype(np.float32)


def make_vectors(given: argparse.Namespace, real: RealVectors, vectors: Path) -> None:
    """An index without a structure, from which all systems take their vectors."""
    source = (Unchanged if given.real else Replicas)(real, given.seed)
    build_index(numbered(given.count), source, vectors, resume=vectors.exists(), vector_format="float16")


def folder_of(given: argparse.Namespace) -> Path:
    """Where the vectors of this run and all that is made of them are kept."""
    folder: Path = given.work_dir / f"{'real-' if given.real else ''}{given.count}-{given.seed}"
    return folder


def build_peer(given: argparse.Namespace, peer: Peer, vectors: Path) -> None:
    """One of the systems."""
    index = open_index(vectors, memory_limit=1)

    def blocks() -> Iterable[NDArray[np.float32]]:
        return index.vectors()

    watch, path = Watch(), file_of(folder_of(given), peer)
    began, worked = time.perf_counter(), time.process_time()
    with watch.sampling():
        peer.build(blocks, given.count, index.manifest.dim, path, given.threads)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    costs = {
        "build_seconds": round(seconds, 1),
        "build_processor_seconds": round(worked, 1),
        "build_peak_own_bytes": max(watch.peak_own.values(), default=0),
    }
    write_json(path.with_suffix(".json"), costs)


def measure_memory(given: argparse.Namespace, peer: Peer, real: RealVectors) -> None:
    """Print what a process that loaded one system takes, beyond what the libraries themselves do."""
    load_faiss().omp_set_num_threads(1)
    before = memory()
    loaded = peer.load(file_of(folder_of(given), peer))
    for query in real.queries:
        loaded.search(query[None], K, peer.values[len(peer.values) // 2])
    after = memory()
    print(json.dumps({name: after[name] - before[name] for name in after}))


def ask(peers: list[Peer], loaded: list[Loaded], queries: NDArray[np.float32], passes: int, truth: Any) -> list[Any]:
    """Speed and recall of every system at each of its parameter values, interleaved."""
    load_faiss().omp_set_num_threads(1)
    settings = [(number, value) for number, peer in enumerate(peers) for value in peer.values]

    def find(number: int, value: int, query: NDArray[np.float32]) -> NDArray[np.int64]:
        return loaded[number].search(query, K, value)

    searches = {(number, value): partial(find, number, value) for number, value in settings}
    for search in searches.values():
        search(queries[:1])
    # Each has answered once, and all pages are in memory: no pass is left untimed.
    milliseconds, found = ask_in_turn(searches, queries, passes, untimed=0)
    return [
        [
            {
                peer.parameter: value,
                "recall@10": round(recall(found[number, value], truth), 4),
                "queries_per_second": round(1000 / float(np.median(milliseconds[number, value])), 1),
                **quantiles(milliseconds[number, value]),
            }
            for value in peer.values
        ]
        for number, peer in enumerate(peers)
    ]


def beyond(systems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is better than each setting of ours: systems as fast or faster at no less recall, at any memory or no more.

    Where the first list is empty, ours is the fastest; where the second is, it is on the front of speed and memory.
    """
    result = []
    for ours in (system for system in systems if is_ours(system)):
        for point in ours["points"]:
            better = [
                system
                for system in systems
                if not is_ours(system)
                and any(
                    other["recall@10"] >= point["recall@10"]
                    and other["queries_per_second"] >= point["queries_per_second"]
                    for other in system["points"]
                )
            ]
            smaller = [each["name"] for each in better if sum(each["memory"].values()) <= sum(ours["memory"].values())]
            result.append(
                {
                    "name": ours["name"],
                    **point,
                    "better": [each["name"] for each in better],
                    "better_and_smaller": smaller,
                }
            )
    return result


def is_ours(system: dict[str, Any]) -> bool:
    """Whether a system of the result is this toolkit."""
    return str(system["name"]).startswith("ibkd-retrieval")


def draw(result: dict[str, Any], path: Path) -> None:
    """Recall against speed, and the memory of each system."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    systems = result["systems"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), constrained_layout=True, width_ratios=(3, 2))
    for system in systems:
        points = system["points"]
        left.plot(
            [point["recall@10"] for point in points],
            [point["queries_per_second"] for point in points],
            "o-",
            linewidth=3 if is_ours(system) else 1.2,
            label=system["name"],
        )
    left.set(xlabel="recall@10", ylabel="queries per second, one thread", yscale="log")
    left.grid(True, which="both", alpha=0.25)
    left.legend(fontsize=8)
    names = [system["name"] for system in systems]
    own = [system["memory"]["own"] / 2**20 for system in systems]
    mapped = [max(0, system["memory"]["mapped"]) / 2**20 for system in systems]
    colours = [f"C{number}" for number in range(len(systems))]
    right.barh(names, own, color=colours)
    right.barh(names, mapped, left=own, color=colours, alpha=0.4, hatch="//")
    right.invert_yaxis()
    right.set(xlabel="MiB to search; hatched: mapped files", xlim=(1, None))
    figure.suptitle(f"{result['documents']:,} vectors × {result['dimensions']} dimensions")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Build what is not there, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--real", action="store_true", help="index the real vectors as they are, all of them")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="to build; queries take one")
    parser.add_argument("--limit", type=float, default=1800, help="seconds a system may take to build")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--leave-out", nargs="*", default=(), help="systems whose names hold one of these words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_peers.json")
    parser.add_argument("--stage", choices=("vectors", "build", "memory"), help="of one system, in this process")
    parser.add_argument("--system", type=int, default=0)
    given = parser.parse_args()
    given.work_dir.mkdir(parents=True, exist_ok=True)
    real = read_real(given.vectors, given.work_dir, given.seed, replicate=not given.real)
    if given.real:
        given.count = len(real.rows)
    folder = folder_of(given)
    folder.mkdir(exist_ok=True)
    vectors = folder / "vectors"
    if given.stage == "vectors":
        make_vectors(given, real, vectors)
        return
    if given.stage is None and not (vectors / "index.json").exists():
        _again("vectors", 0)
    known = all_peers(vectors, given.count)
    peers = [peer for peer in known if not any(word in peer.name for word in given.leave_out)]
    if given.stage == "build":
        build_peer(given, peers[given.system], vectors)
        return
    if given.stage == "memory":
        measure_memory(given, peers[given.system], real)
        return
    systems: list[dict[str, Any]] = []
    built, unfinished = [], []
    for number, peer in enumerate(peers):
        path = file_of(folder, peer)
        cost = path.with_suffix(".json")
        costs = json.loads(cost.read_bytes()) if cost.exists() else {"unfinished_after_seconds": 0}
        if costs.get("unfinished_after_seconds", given.limit) < given.limit:
            build_within(given, number, cost)
            costs = json.loads(cost.read_bytes())
        if "unfinished_after_seconds" in costs:
            unfinished.append({"name": peer.name, "recipe": peer.recipe, **costs})
            continue
        chosen = path.with_suffix(".chosen.json")
        systems.append(
            {
                "name": peer.name,
                "recipe": peer.recipe,
                **({"chosen": json.loads(chosen.read_bytes())["index_key"]} if chosen.exists() else {}),
                **costs,
                "memory": json.loads(_again("memory", number).splitlines()[-1]),
                "file_bytes": size_of(path),
            }
        )
        built.append(peer)
        print(systems[-1], flush=True)
    _, truth = exact_neighbours(real.queries, open_index(vectors, memory_limit=1).vectors(), K)
    loaded = [peer.load(file_of(folder, peer)) for peer in built]
    for system, points in zip(systems, ask(built, loaded, real.queries, given.passes, truth), strict=True):
        system["points"] = points
    result = {
        "documents": given.count,
        "dimensions": int(real.rows.shape[1]),
        "vectors": f"{len(real.rows):,} real vectors"
        + ("" if given.real else ", replicated (benchmarks/replicated_vectors.py)"),
        "queries": QUERIES,
        "threads": {"build": given.threads, "search": 1},
        "systems": systems,
        "unfinished": unfinished,
        "left_out": [peer.name for peer in known if peer not in peers],
        "ours_against_the_front": beyond(systems),
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
        "peer_versions": {peer.package: metadata.version(peer.package) for peer in peers if peer.package},
    }
    write_json(given.output, result)
    draw(result, given.output.with_suffix(".png"))
    for point in result["ours_against_the_front"]:
        print(point)


def build_within(given: argparse.Namespace, system: int, cost: Path) -> None:
    """Build one of the other systems, or note that it took too long."""
    try:
        _again("build", system, given.limit)
    except subprocess.TimeoutExpired:
        write_json(cost, {"unfinished_after_seconds": given.limit})


def _again(stage: str, system: int, limit: float | None = None) -> str:
    command = [sys.executable, *sys.argv, "--stage", stage, "--system", str(system)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit).stdout


if __name__ == "__main__":
    main()
