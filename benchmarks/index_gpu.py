"""Training and searching with faiss-gpu beside the CPU of the same machine, by the code paths of `--device cuda`.

usage: python benchmarks/index_gpu.py --vectors FILE.npy|FOLDER [...] --work-dir DIR [--count 1000000] [--output FILE]

FILE.npy and the .npy files of FOLDER hold real unit vectors, replicated (replicated_vectors.py) to `--count`. An index
of them is made without a structure; then each of `ivf-pq` (codes of four bits), `ivf-pq` with codes of eight bits and
`ivf-flat` is made of its vectors with k-means on the CPU and on the GPU, and `flat` of the vectors as they are. Each is
searched by `open_index(device=...)` with one query at a time and all at once, the devices in turn, medians of --rounds;
recall is against an exact search on the CPU. Needs faiss-gpu; without a GPU it says so and ends with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.faiss_binding import gpu_count, load_faiss
from ibkd_retrieval.indexing.families import Family, family_named
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from measuring import Watch, exact_neighbours, recall
from replicated_vectors import QUERIES, Replicas, numbered, read_real

K = 10
FAMILIES: dict[str, dict[str, Any]] = {
    "flat": {},
    "ivf-pq": {},
    "ivf-pq, 8 bits": {"bits": 8, "subquantisers": 48},
    "ivf-flat": {},
}


def family_of(name: str) -> Family:
    """The family of a row of the table."""
    return family_named(name.partition(",")[0], **FAMILIES[name])


def build(name: str, source: Path, folder: Path, device: str) -> dict[str, Any]:
    """Make an index of the vectors of another, and time its stages."""
    watch = Watch()
    manifest = combine_indexes([source], folder, family=family_of(name), overwrite=True, device=device, progress=watch)
    seconds = {stage: round(took, 2) for stage, took in watch.seconds.items()}
    return {"factory": manifest.factory, "seconds": seconds, "said": watch.said}


def ask(
    opened: dict[str, StoredIndex], queries: NDArray[np.float32], truth: NDArray[np.int64], rounds: int
) -> dict[str, dict[str, Any]]:
    """Recall and speed of one index on each device, in turn."""
    single: dict[str, list[float]] = {device: [] for device in opened}
    batch: dict[str, list[float]] = {device: [] for device in opened}
    found: dict[str, Any] = {}
    for index in opened.values():
        index.search(queries, K)
        index.search(queries[:1], K)
    for _ in range(rounds):
        for device, index in opened.items():
            began = time.perf_counter()
            found[device] = index.search(queries, K)[1]
            batch[device].append(time.perf_counter() - began)
        for query in range(len(queries)):
            for device, index in opened.items():
                began = time.perf_counter()
                index.search(queries[query : query + 1], K)
                single[device].append(1000 * (time.perf_counter() - began))
    return {
        device: {
            "recall@10": round(recall(found[device], truth), 4),
            "batch_queries_per_second": round(len(queries) / statistics.median(batch[device]), 1),
            "single_p50_ms": round(statistics.median(single[device]), 3),
        }
        for device in opened
    }


def main() -> None:
    """Build, search, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_gpu.json")
    given = parser.parse_args()
    if not gpu_count():
        raise SystemExit("faiss sees no GPU here.")
    given.work_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  Where it is there, the environment names the GPU.
    faiss = load_faiss()
    real = read_real(given.vectors, given.work_dir, given.seed)
    # What is kept is of so many vectors, and of this seed.
    kept = given.work_dir / f"{given.count}-{given.seed}"
    kept.mkdir(exist_ok=True)
    source = kept / "vectors"
    if not (source / "index.json").exists():
        # Flat and float16: nothing is trained, the vectors lie in their shards.
        build_index(
            numbered(given.count), Replicas(real, given.seed), source, resume=source.exists(), vector_format="float16"
        )
    plain = open_index(source)
    _, truth = exact_neighbours(real.queries, plain.vectors(), K)
    rows: list[dict[str, Any]] = []
    for name in given.families:
        row: dict[str, Any] = {"family": name}
        for device in ("cpu", "cuda"):
            folder = kept / f"{name.replace(', ', '-').replace(' ', '')}-{device}"
            if name == "flat":
                folder = source
            else:
                row[f"build_{device}"] = build(name, source, folder, device)
        watch = Watch()
        opened = {device: open_index(folder, device=device, progress=watch) for device in ("cpu", "cuda")}
        row["said_on_opening"] = watch.said
        row["search"] = ask(opened, real.queries, truth, given.rounds)
        print(json.dumps(row), flush=True)
        rows.append(row)
        del opened
    result = {
        "what": "structures trained and searched by the code paths of --device cuda, beside the CPU",
        "documents": given.count,
        "dimensions": int(real.rows.shape[1]),
        "vectors": f"{len(real.rows):,} real vectors, replicated (benchmarks/replicated_vectors.py), float16",
        "queries": QUERIES,
        "rounds": given.rounds,
        "threads": faiss.omp_get_max_threads(),
        "gpus": gpu_count(),
        "families": rows,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(given.output, result)


if __name__ == "__main__":
    main()
