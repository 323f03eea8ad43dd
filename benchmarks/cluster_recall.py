"""What an index finds in one file, and in parts on the nodes of a cluster, refined before and after they are merged.

    python benchmarks/cluster_recall.py --vectors FILE.npy --work-dir DIR [--queries 500] [--parts 8]

The last vectors of the file are the queries, and the others are indexed: once in one file and once in parts, with the
same centroids and codes. Recall@10 is against exact search, at the search parameters that the index has chosen and at
others. The cluster is a head without CPUs and two nodes of one CPU on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.ray_nodes import started

_NPROBES, _REFINEMENTS = (16, 64, 256), (1, 2, 4, 8)


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--vectors", type=Path, required=True, help="vectors of length 1 [n, dim]")
    options.add_argument("--work-dir", type=Path, required=True, help="for the indexes, which are removed")
    options.add_argument("--source", default="", help="what the vectors are, for the record")
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--parts", type=int, default=8)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cluster_recall.json")
    given = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    import numpy as np
    import ray

    from ibkd_retrieval.cluster import Cluster
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json
    from ibkd_retrieval.indexing.cluster_search import NodeSearch
    from ibkd_retrieval.indexing.config import SearchParams
    from ibkd_retrieval.indexing.families import family_named
    from ibkd_retrieval.indexing.importing.folder import import_vectors
    from ibkd_retrieval.indexing.importing.formats import open_vectors
    from ibkd_retrieval.indexing.index import open_index
    from index_families import recall

    table = np.load(given.vectors, allow_pickle=False)
    table, queries = table[: -given.queries], table[-given.queries :]
    source = open_vectors(table, ids=[str(row) for row in range(len(table))])
    indexes, size = [], max(1, len(table) // (4 * given.parts))
    for parts in (1, given.parts):
        folder = given.work_dir / f"{parts}-parts"
        shutil.rmtree(folder, ignore_errors=True)
        import_vectors(source, folder, family=family_named("ivf-pq"), shard_size=size, parts=parts)
        indexes.append(open_index(folder))
    one, several = indexes
    exact = one.exactly().search(queries, 10)[0]
    with started() as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        ways = {"one file": one}
        for name, merge in (("parts", False), ("parts, exact merge", True)):
            nodes = NodeSearch(Cluster("auto"), several.folder, several.manifest, exact_merge=merge)
            ways[name] = several.on_nodes(nodes)
        settings = [one.manifest.search, *(SearchParams(p, r) for p in _NPROBES for r in _REFINEMENTS)]
        found = []
        for params in settings:
            shares = {name: recall(index.search(queries, 10, params)[0], exact) for name, index in ways.items()}
            found.append({"nprobe": params.nprobe, "refine": params.refine, "recall_at_10": shares})
            print(found[-1], flush=True)
        ray.shutdown()
    result = {
        "vectors": given.source,
        "documents": len(table),
        "queries": len(queries),
        "parts": len(several.manifest.parts),
        "factory": one.manifest.factory,
        "chosen": found[0],
        "others": found[1:],
        "environment": read_environment().to_json(),
    }
    write_json(given.output, result)
    shutil.rmtree(given.work_dir)


if __name__ == "__main__":
    main()
