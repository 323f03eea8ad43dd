"""Run metadata in ir_metadata format (Breuer, Keller and Schaer, SIGIR 2022; https://www.ir-metadata.org)."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.search.options import RankerOptions

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.device import Environment
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.search.runs import Run


@dataclass(frozen=True)
class RunOrigin:
    """How a run was made.

    Attributes:
        folders: the index folders.
        options: the ranking options.
        k: number of results per query.
        queries: name of the query set.
        seconds: search time, without opening indexes and loading models.
    """

    folders: tuple[Path, ...]
    options: RankerOptions
    k: int
    queries: str
    seconds: float


def run_metadata(run: Run, origin: RunOrigin) -> dict[str, Any]:
    """The metadata of a run by the sections of the schema: the machine, the software, the method and the data.

    The user may add who made the run, and why.
    """
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.indexing.building.memory import peak_memory_bytes
    from ibkd_retrieval.indexing.format.manifest import read_manifest

    environment = read_environment()
    manifests = [read_manifest(folder) for folder in origin.folders]
    return {
        "schema version": "0.2",
        "tag": run.tag,
        "platform": _platform(environment),
        "implementation": {
            "executable": {"cmd": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])},
            "source": {"lang": f"python {environment.python}"},
        },
        "resources": {
            "runtime": {"wallclock": f"{1000 * origin.seconds:.0f} ms"},
            "ram": {"used process": f"{peak_memory_bytes() // 1024} KB"},
        },
        "method": {
            "automatic": True,
            "score ties": "reverse alphabetical order",
            "indexing": [_indexing(*each) for each in zip(origin.folders, manifests, strict=True)],
            "retrieval": _retrieval(origin.options, origin.k),
        },
        "data": {
            "test collection": {
                "name": ", ".join(dict.fromkeys(manifest.corpus.name for manifest in manifests)),
                "fingerprint": [manifest.corpus.fingerprint for manifest in manifests],
                "topics": origin.queries,
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
    """The stages in order, named as in the schema: retrieval, interpolation, reranking."""
    shared = {"k": k, "filters": list(options.filters), "exclude self": options.exclude_self}
    spoken = {} if options.language == "english" else {"language": options.language}
    words = options.engine if options.engine != "dense" else "bm25"
    names = ("model", "query_model", "query_vectors", "device", "dtype", "backend", "pooling", "recall")
    chosen = {name: getattr(options, name) for name in names} | options.search_params.to_json()
    dense = {name: value for name, value in chosen.items() if value is not None}
    stages: list[dict[str, Any]] = []
    if options.hybrid is not None or options.engine == "dense":
        stages.append({"name": "dense", "method": "inner product", **dense, **shared})
    if options.hybrid is not None or options.engine != "dense":
        from ibkd_retrieval.search.lexical import DEFAULT_B, DEFAULT_K1

        stages.append({"name": words, "method": words, "k1": DEFAULT_K1, "b": DEFAULT_B, **spoken, **shared})
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


def metadata_path(run: Path) -> Path:
    """The path of a run file's metadata: `run.trec.metadata.yaml` beside `run.trec`."""
    return run.with_name(f"{run.name}.metadata.yaml")


def write_run_metadata(run: Path, metadata: Mapping[str, Any]) -> None:
    """Write the metadata of a run file beside it, as YAML, whole or not at all.

    Args:
        run: the run file.
        metadata: sections by their names in the schema (platform, implementation, method, ...).
    """
    with atomic_write(metadata_path(run)) as file:
        file.write(as_yaml(metadata).encode("utf-8"))


def as_yaml(value: Mapping[str, Any]) -> str:
    """Block YAML with every text in double quotes, so that every reader reads it as text."""
    import yaml

    class Text(str):
        """A value, which is quoted; keys are not."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def marked(each: Any) -> Any:
        if isinstance(each, Mapping):
            return {key: marked(value) for key, value in each.items()}
        if isinstance(each, list | tuple):
            return [marked(item) for item in each]
        return Text(each) if isinstance(each, str) else each

    Dumper.add_representer(Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
    return str(yaml.dump(marked(value), Dumper=Dumper, sort_keys=False, width=sys.maxsize, default_flow_style=False))
