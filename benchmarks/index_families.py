"""Every index family against exact search, on one collection of real vectors, in one run.

usage: python benchmarks/index_families.py --vectors FOLDER|INDEX [...] --queries FILE.npy|FILE.jsonl [--model MODEL]

FOLDER holds float32 unit vectors [n, dim] as *.npy (the `vectors` of an index folder, whose INDEX is as good). Queries
are vectors [q, dim], or texts (`text` of each line) to encode with --model. The first half of the queries is only for
looking at while settings are chosen (`--tuning`); the figures are of the second half. Search is timed on one thread,
families interleaved, medians of --rounds rounds. Writes benchmarks/results/index_families.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.evaluation.environment import read_environment
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.exact import scan
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.families.effort import effort_for, search_structure
from ibkd_retrieval.indexing.families.family import BuiltStructure
from ibkd_retrieval.indexing.manifest import SearchDefaults
from ibkd_retrieval.indexing.vector_source import ArrayVectors
from ibkd_retrieval.progress import SILENT

FAMILIES: dict[str, tuple[str, dict[str, int | str]]] = {
    "flat": ("flat", {"memory_bytes": 1 << 50}),
    "ivf-flat": ("ivf-flat", {}),
    "ivf-pq": ("ivf-pq", {}),
    "ivf-pq, two dimensions a code": ("ivf-pq", {"subquantisers": 192}),
    "ivf-pq, 8 bits": ("ivf-pq", {"bits": 8, "subquantisers": 48}),
    "hnsw": ("hnsw", {}),
    "sq8": ("sq8", {}),
    "rabitq": ("rabitq", {}),
}


def read_vectors(paths: list[Path]) -> NDArray[np.float32]:
    """All vectors below the folders, in order of file name."""
    files = []
    for path in paths:
        inner = path / "vectors"
        files += sorted((inner if inner.is_dir() else path).glob("*.npy"))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def read_queries(path: Path, model: str | None, most: int) -> NDArray[np.float32]:
    """Query vectors [q, dim], encoded where the file holds texts."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)[:most]
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()[:most]]
    return np.asarray(Encoder.load(str(model)).encode(texts, "query"), dtype=np.float32)


def recall(
    queries: NDArray[np.float32], found: NDArray[np.int64], vectors: ArrayVectors, least: NDArray[np.float32]
) -> float:
    """Mean share of answers [q, k] that score as well as the last exact one, `least` [q].

    By score and not by row, as collections repeat documents (2 % of these abstracts), any of which is as good.
    """
    shares = []
    for query, rows, bound in zip(queries, found, least, strict=True):
        scores = vectors.gather(rows[rows >= 0]) @ query
        shares.append(np.count_nonzero(scores >= bound - 1e-6) / len(rows))
    return round(float(np.mean(shares)), 4)


def searcher(built: BuiltStructure, vectors: ArrayVectors) -> Callable[[NDArray[np.float32], int], NDArray[np.int64]]:
    """Search as `StoredIndex.search` does, with the settings chosen at building."""

    def search(queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        if built.search.is_exact:
            rows: NDArray[np.int64] = built.index.search(queries, k)[1]
            return rows
        effort = effort_for(built.index, built.search, SearchDefaults(), k, vectors.count, vectors.count)
        return search_structure(built.index, queries, k, effort, vectors)[1]

    return search


def main() -> None:
    """Build all families, search with the same queries, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, nargs="+", required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--model", help="encodes queries given as texts")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--most-queries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tuning", action="store_true", help="take the first half of the queries; nothing is written")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_families.json")
    given = parser.parse_args()
    asked = read_queries(given.queries, given.model, given.most_queries)
    queries = asked[: len(asked) // 2] if given.tuning else asked[len(asked) // 2 :]
    vectors = ArrayVectors(read_vectors(given.vectors))
    blas_threshold(vectors.dim)
    exact = scan(queries, vectors, 100)[0]
    rows = {}
    searches = {}
    for label in given.families:
        name, options = FAMILIES[label]
        family = family_named(name, **options)
        start = time.perf_counter()
        built = family.build(vectors, SILENT)
        seconds = time.perf_counter() - start
        searches[label] = searcher(built, vectors)
        rows[label] = {
            "factory": built.factory,
            "build_seconds": round(seconds, 2),
            "nprobe": built.search.nprobe,
            "refine": built.search.refine,
            "ef_search": built.search.ef_search,
            "recall@10": recall(queries, searches[label](queries, 10), vectors, exact[:, 9]),
            "recall@100": recall(queries, searches[label](queries, 100), vectors, exact[:, 99]),
            "bytes_per_vector": round(len(load_faiss().serialize_index(built.index)) / vectors.count, 1),
        }
        print(label, rows[label], flush=True)
    load_faiss().omp_set_num_threads(1)
    times: dict[str, list[float]] = {label: [] for label in searches}
    for _ in range(given.rounds):
        for label, search in searches.items():
            start = time.perf_counter()
            for query in queries:
                search(query[None], 10)
            times[label].append(len(queries) / (time.perf_counter() - start))
    for label, rates in times.items():
        rows[label]["queries_per_second_one_thread"] = round(statistics.median(rates), 1)
        print(label, rows[label]["queries_per_second_one_thread"], "queries/s")
    if not given.tuning:
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "environment": read_environment().to_json(),
            "vectors": vectors.count,
            "dimensions": vectors.dim,
            "queries": len(queries),
            "rounds": given.rounds,
            "families": rows,
        }
        write_json(given.output, result)


if __name__ == "__main__":
    main()
