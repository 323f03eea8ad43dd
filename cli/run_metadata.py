"""What `ibkd search` writes beside a run: the machine, the software, the method and the data, as ir_metadata."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.search.options import RankerOptions

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.compare.environment import Environment
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.search.runs.run import Run


def run_metadata(
    run: Run, folders: Sequence[Path], options: RankerOptions, k: int, queries: str, seconds: float
) -> dict[str, Any]:
    """The sections of the schema; who ran it and why is for the user to add.

    Args:
        run: what was found.
        folders: the indexes searched.
        options: how.
        k: results asked for.
        queries: their name.
        seconds: from opened indexes to the run.
    """
    from ibkd_retrieval.evaluation.compare.environment import read_environment
    from ibkd_retrieval.indexing.building.memory import peak_memory_bytes
    from ibkd_retrieval.indexing.format.manifest import read_manifest

    environment = read_environment()
    manifests = [read_manifest(folder) for folder in folders]
    return {
        "schema version": "0.2",
        "tag": run.tag,
        "platform": _platform(environment),
        "implementation": {
            "executable": {"cmd": shlex.join(["ibkd", *sys.argv[1:]])},
            "source": {"lang": f"python {environment.python}"},
        },
        "resources": {
            "runtime": {"wallclock": f"{1000 * seconds:.0f} ms"},
            "ram": {"used process": f"{peak_memory_bytes() // 1024} KB"},
        },
        "method": {
            "automatic": True,
            "score ties": "reverse alphabetical order",
            "indexing": [_indexing(folder, manifest) for folder, manifest in zip(folders, manifests, strict=True)],
            "retrieval": _retrieval(options, k),
        },
        "data": {
            "test collection": {
                "name": ", ".join(dict.fromkeys(manifest.corpus.name for manifest in manifests)),
                "fingerprint": [manifest.corpus.fingerprint for manifest in manifests],
                "topics": queries,
                "queries": len(run),
                "results": len(run.doc_ids),
            }
        },
    }


def _platform(environment: Environment) -> dict[str, Any]:
    system, _, architecture = environment.platform.partition(" ")
    hardware: dict[str, Any] = {
        "cpu": {"model": environment.cpu, "architecture": architecture, "number of cores": environment.cores}
    }
    if environment.accelerator is not None:
        hardware["gpu"] = {"model": environment.accelerator}
    libraries = [f"{name}=={version}" for name, version in environment.packages.items()]
    return {
        "hardware": hardware,
        "operating system": {"distribution": system},
        "software": {"libraries": {"python": libraries}, "threads": environment.threads},
    }


def _indexing(folder: Path, manifest: IndexManifest) -> dict[str, Any]:
    return {
        "index": str(folder),
        "documents": manifest.document_count,
        "family": manifest.family,
        "factory": manifest.factory,
        "search defaults": asdict(manifest.search),
        "encoder": asdict(manifest.encoder),
        "created": manifest.created,
    }


def _retrieval(options: RankerOptions, k: int) -> list[dict[str, Any]]:
    """The stages in order, as the schema names them: what finds, what interpolates, what reranks."""
    shared = {"k": k, "filters": list(options.filters), "exclude self": options.exclude_self}
    words = options.engine if options.engine != "dense" else "bm25"
    names = ("model", "query_model", "device", "dtype", "backend", "pooling", "recall")
    chosen = {name: getattr(options, name) for name in names} | options.search_params.to_json()
    dense = {name: value for name, value in chosen.items() if value is not None}
    stages: list[dict[str, Any]] = []
    if options.hybrid is not None or options.engine == "dense":
        stages.append({"name": "dense", "method": "inner product", **dense, **shared})
    if options.hybrid is not None or options.engine != "dense":
        from ibkd_retrieval.search.lexical import DEFAULT_B, DEFAULT_K1

        stages.append({"name": words, "method": words, "k1": DEFAULT_K1, "b": DEFAULT_B, **shared})
    if options.hybrid is not None:
        stage: dict[str, Any] = {"name": "hybrid", "method": options.hybrid, "interpolates": ["dense", words]}
        stage["weights"] = list(options.weights) or "equal"
        stages.append(stage if options.tune is None else stage | {"weights tuned on": options.tune})
    if options.rerank is not None:
        reranks = stages[-1]["name"]
        depth, length = options.rerank_depth, options.rerank_max_length
        stages.append(
            {"name": "rerank", "method": options.rerank, "reranks": reranks, "depth": depth, "max length": length}
        )
    return stages
