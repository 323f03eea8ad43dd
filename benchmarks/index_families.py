"""Every index family against exact search, on one collection of real vectors, in one run.

usage: python benchmarks/index_families.py --index INDEX [...] --queries FILE.npy|FILE.jsonl --work-dir DIR
                                           [--model MODEL]

The documents of finished indexes of one model are made an index of each type (`ibkd index --from`), which are then
opened and asked as `ibkd search` does: exact vectors are read from the mapped shards. Queries are vectors [q, dim], or
texts (`text` of each line) to encode with --model. The first half of the queries is only for looking at while settings
are chosen (`--tuning`); the figures are of the second half. One query at a time in one thread, families in turn within
each query, in an order drawn anew; the first of all passes is not timed. Writes benchmarks/results/index_families.json
(--output).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Option, family_named
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from measuring import ask_in_turn, quantiles

FAMILIES: dict[str, tuple[str, dict[str, Option]]] = {
    "flat": ("flat", {"memory_bytes": 1 << 50}),
    "ivf-flat": ("ivf-flat", {}),
    "ivf-pq": ("ivf-pq", {}),
    "ivf-pq, two dimensions a code": ("ivf-pq", {"subquantisers": 192}),
    "ivf-pq, 8 bits": ("ivf-pq", {"bits": 8, "subquantisers": 48}),
    "hnsw": ("hnsw", {}),
    "sq8": ("sq8", {}),
    "rabitq": ("rabitq", {}),
}


def read_queries(path: Path, model: str | None, most: int) -> NDArray[np.float32]:
    """Query vectors [q, dim], encoded where the file holds texts."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)[:most]
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()[:most]]
    return np.asarray(Encoder.load(str(model)).encode(texts, "query"), dtype=np.float32)


def recall(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Mean share of answers whose scores [q, k] are no less than the last exact one's [q, k].

    By score and not by row, as collections repeat documents (2 % of these abstracts), any of which is as good.
    """
    return round(float(np.mean(found >= exact[:, -1:] - 1e-6)), 4)


def build(sources: list[Path], folder: Path, label: str) -> StoredIndex:
    """An index of a type, made by as many threads as there are processors."""
    name, options = FAMILIES[label]
    load_faiss().omp_set_num_threads(os.cpu_count() or 1)
    combine_indexes(sources, folder, family=family_named(name, **options), overwrite=folder.exists())
    return open_index(folder)


def facts(index: StoredIndex, queries: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, Any]:
    """What an index is and finds."""
    manifest = index.manifest
    structure = manifest.files[manifest.structure].bytes if manifest.structure in manifest.files else 0
    return {
        "factory": manifest.factory,
        "structure_seconds": round(manifest.build.structure_seconds, 2),
        "nprobe": manifest.search.nprobe,
        "refine": manifest.search.refine,
        "ef_search": manifest.search.ef_search,
        "recall@10": recall(index.search(queries, 10)[0], exact[:, :10]),
        "recall@100": recall(index.search(queries, 100)[0], exact),
        "bytes_per_vector": round(structure / manifest.document_count, 1),
    }


def find(index: StoredIndex, query: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows of ten results."""
    return index.search(query, 10)[1]


def main() -> None:
    """Build all families, search with the same queries, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, nargs="+", required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--model", help="encodes queries given as texts")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--most-queries", type=int, default=2000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--tuning", action="store_true", help="take the first half of the queries; nothing is written")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_families.json")
    given = parser.parse_args()
    asked = read_queries(given.queries, given.model, given.most_queries)
    queries = asked[: len(asked) // 2] if given.tuning else asked[len(asked) // 2 :]
    indexes, rows = {}, {}
    exact: NDArray[np.float32] | None = None
    for label in ("flat", *(each for each in given.families if each != "flat")):
        index = build(given.index, given.work_dir / label.replace(",", "").replace(" ", "-"), label)
        if exact is None:
            exact = index.search(queries, 100)[0]
        indexes[label], rows[label] = index, facts(index, queries, exact)
        print(label, rows[label], flush=True)
    load_faiss().omp_set_num_threads(1)
    searches = {label: partial(find, index) for label, index in indexes.items()}
    for label, milliseconds in ask_in_turn(searches, queries, given.passes)[0].items():
        rows[label] |= {
            "queries_per_second_one_thread": round(1000 / float(np.median(milliseconds)), 1),
            **quantiles(milliseconds),
        }
        print(label, rows[label]["queries_per_second_one_thread"], "queries/s")
    if given.tuning:
        return
    manifest = indexes["flat"].manifest
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": read_environment().to_json(),
        "model": manifest.encoder.name.split("/")[-1],
        "corpora": [open_index(source, memory_limit=1).manifest.corpus.name.split("/")[-1] for source in given.index],
        "vectors": manifest.document_count,
        "dimensions": manifest.dim,
        "vector_format": manifest.vector_format,
        "queries": len(queries),
        "passes": given.passes,
        "threads": {"build": os.cpu_count(), "search": 1},
        "families": rows,
    }
    write_json(given.output, result)


if __name__ == "__main__":
    main()
