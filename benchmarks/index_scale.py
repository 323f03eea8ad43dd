"""An ivf-pq index of as many vectors as MS MARCO has passages: time, memory, disk, latency and recall, by size.

usage: python benchmarks/index_scale.py --vectors FOLDER [...] --work-dir DIR [--count 8841823] [--sizes 10000 ...]
                                        [--search-again]

FOLDER holds .npy files of real unit vectors, as the `vectors` folder of an index does. They are replicated
(replicated_vectors.py) to `--count` documents, whose vectors go through `build_index` like any encoder's. Each size is
built, and then searched, in a fresh process. Run again, the script goes on with what is unfinished: shards, figures
and exact neighbours are kept in DIR, and --search-again measures the searches of the indexes that are there anew.
Queries are 200 real vectors that were left out.

Writes benchmarks/results/index_scale.json and .png (--output). Disk: 2 bytes a dimension and 130 bytes a document.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import atomic_write, write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from measuring import Watch, ask_in_turn, exact_neighbours, memory, peak_resident, quantiles, recall
from replicated_vectors import QUERIES, RealVectors, Replicas, likeness, nearness, numbered, read_real

MS_MARCO_PASSAGES = 8_841_823
SIZES = (10_000, 100_000, 1_000_000)
DEPTH = 1000
PASSES = 3


def figures_file(work: Path, count: int, what: str) -> Path:
    """Where the figures of one size are kept, those of the build and those of searching apart."""
    return work / "points" / f"{count}-{what}.json"


def build(given: argparse.Namespace, count: int) -> None:
    """Make an index of one size, or finish it; an interrupted build's times are those of the run that finished it."""
    load_faiss().omp_set_num_threads(given.threads)
    real = read_real(given.vectors, given.work_dir, given.seed)
    folder = given.work_dir / "indexes" / str(count)
    watch = Watch()
    begun = folder.exists()
    with watch.sampling():
        manifest = build_index(
            numbered(count),
            Replicas(real, given.seed),
            folder,
            family="ivf-pq",
            resume=begun,
            vector_format="float16",
            progress=watch,
        )
    vectors = sum(record.bytes for name, record in manifest.files.items() if name.startswith("vectors/"))
    write_json(
        figures_file(given.work_dir, count, "build"),
        {
            "documents": count,
            "dimensions": manifest.dim,
            "factory": manifest.factory,
            "seconds": {stage: round(seconds, 2) for stage, seconds in watch.seconds.items()},
            "resumed": begun,
            "peak_own_bytes": watch.peak_own,
            "peak_resident_bytes": watch.peak_resident,
            "peak_resident_with_mapped_files_bytes": peak_resident(),
            "remarks": watch.said,
            "bytes": {
                "index.faiss": manifest.files[manifest.structure].bytes,
                "vectors": vectors,
                "all": manifest.disk_bytes,
            },
        },
    )


def search(given: argparse.Namespace, count: int) -> None:
    """Search an index of one size in this process, which has done nothing else, and write the figures."""
    real = read_real(given.vectors, given.work_dir, given.seed)
    before = memory()
    index = open_index(given.work_dir / "indexes" / str(count))
    path = given.work_dir / f"exact-{count}-{given.seed}.npz"
    if not path.exists():
        load_faiss().omp_set_num_threads(given.threads)
        with atomic_write(path) as file:
            np.savez(file, *exact_neighbours(real.queries, index.vectors(), DEPTH))
    with np.load(path) as kept:
        cosines, truth = kept["arr_0"], kept["arr_1"]
    points = ask(index, real, truth)
    after = memory()
    write_json(
        figures_file(given.work_dir, count, "search"),
        {
            "nearness": nearness(cosines),
            "search": points,
            "memory_to_search": {name: after[name] - before[name] for name in after},
        },
    )


def ask(index: StoredIndex, real: RealVectors, truth: Any) -> list[dict[str, Any]]:
    """Latency of single queries in one thread, and recall, at the index's own settings and at others around them.

    The first of all passes is not timed: it reads the vectors of the candidates from disk.
    """

    def find(k: int, nprobe: int | None, refine: int | None, query: NDArray[np.float32]) -> NDArray[np.int64]:
        return index.search(query, k, SearchParams(nprobe=nprobe, refine=refine))[1]

    load_faiss().omp_set_num_threads(1)
    chosen = index.manifest.search
    tries: list[tuple[int, int | None, int | None]] = [(10, None, None), (DEPTH, None, None)]
    if chosen.nprobe is not None and chosen.refine is not None:
        tries += [
            (10, max(1, int(chosen.nprobe * visited)), chosen.refine * scored)
            for visited, scored in ((0.25, 1), (0.5, 1), (0.5, 4), (0.5, 8), (1, 8), (2, 1), (4, 1))
        ]
    searches = {(k, nprobe, refine): partial(find, k, nprobe, refine) for k, nprobe, refine in tries}
    milliseconds, found = ask_in_turn(searches, real.queries, PASSES)
    points = [
        {
            "k": k,
            "nprobe": nprobe,
            "refine": refine,
            "recall": round(recall(found[k, nprobe, refine], truth[:, :k]), 4),
            **quantiles(milliseconds[k, nprobe, refine]),
        }
        for k, nprobe, refine in tries
    ]
    print(*points, sep="\n", flush=True)
    return [{"own_settings": {"nprobe": chosen.nprobe, "refine": chosen.refine}}, *points]


def draw(result: dict[str, Any], path: Path) -> None:
    """Build time and peak memory against the number of documents."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points = result["points"]
    documents = [point["documents"] for point in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    total = [sum(point["seconds"].values()) for point in points]
    left.plot(documents, total, "o-", color="black", label="all")
    for stage in ("generate", "train", "add", "choose"):
        left.plot(documents, [point["seconds"].get(stage, np.nan) for point in points], "o--", label=stage)
    left.plot(documents, [total[-1] * count / documents[-1] for count in documents], ":", color="grey", label="linear")
    left.set(xlabel="documents", ylabel="build time (s)", xscale="log", yscale="log")
    gib = 2.0**30
    right.plot(documents, [max(p["peak_own_bytes"].values()) / gib for p in points], "o-", label="build, peak")
    right.plot(documents, [p["bytes"]["index.faiss"] / gib for p in points], "o-", label="index.faiss, searched")
    right.plot(documents, [p["bytes"]["vectors"] / gib for p in points], "o--", label="vectors on disk")
    right.set(xlabel="documents", ylabel="GiB", xscale="log", yscale="log")
    for axis in (left, right):
        axis.grid(True, which="both", alpha=0.25)
        axis.legend()
    figure.suptitle(f"ivf-pq, {points[-1]['dimensions']} dimensions, {result['threads']} threads")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure every size that has no point yet, each in a process of its own, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, nargs="+", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=MS_MARCO_PASSAGES, help="the largest size")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="further sizes; larger ones are left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_scale.json")
    parser.add_argument("--search-again", action="store_true", help="forget the figures of searches, not the indexes")
    parser.add_argument("--only", type=int, help="measure this size, in this process, and write no result")
    parser.add_argument("--job", choices=("build", "search"), help="of --only")
    given = parser.parse_args()
    if given.only:
        (build if given.job == "build" else search)(given, given.only)
        return
    sizes = sorted({size for size in given.sizes if size < given.count} | {given.count})
    for size in sizes:
        if given.search_again:
            figures_file(given.work_dir, size, "search").unlink(missing_ok=True)
        for job in ("build", "search"):
            if not figures_file(given.work_dir, size, job).exists():
                subprocess.run([sys.executable, *sys.argv, "--only", str(size), "--job", job], check=True)
    real = read_real(given.vectors, given.work_dir, given.seed)
    result = {
        "vectors": f"{len(real.rows):,} real vectors, replicated (benchmarks/replicated_vectors.py), float16",
        "queries": QUERIES,
        "threads": given.threads,
        "likeness": likeness(real, Replicas(real, given.seed)),
        "points": [
            json.loads(figures_file(given.work_dir, size, "build").read_bytes())
            | json.loads(figures_file(given.work_dir, size, "search").read_bytes())
            for size in sizes
        ],
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(given.output, result)
    draw(result, given.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
