"""What an index of a hundred million or a billion passages costs: a simulation with a stub of everything that is large.

The manifest, the records of shards and the files (without contents) are those of the whole index. What grows with the
documents is measured on a sample and multiplied. The encoders' speeds come from other committed results.

    python benchmarks/cluster_scale.py --output benchmarks/results/cluster_scale.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.indexing.building.memory import DEFAULT_SHARD_SIZE, least_shard_size
from ibkd_retrieval.indexing.building.plan import Fingerprint, IdGuard
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.families import IvfPq
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.integrity import verify_files
from ibkd_retrieval.indexing.format.lines import write_lines
from ibkd_retrieval.indexing.format.manifest import (
    BuildRecord,
    CorpusRecord,
    EncoderRecord,
    FileRecord,
    IndexManifest,
    PartEntry,
    ShardEntry,
    read_manifest,
    write_manifest,
)
from ibkd_retrieval.indexing.format.shards import ShardRecord, read_records, shard_files
from ibkd_retrieval.indexing.vectors.exact import better_of
from measuring import memory

DIM = 384
PART_BYTES = 8 << 30
SAMPLED = 2_000_000
TEXTS = 200_000


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process: other programs run beside."""
    began = time.process_time()
    result = work()
    return round(time.process_time() - began, 3), result


@contextmanager
def folder(beside: Path | None) -> Iterator[Path]:
    """A temporary folder."""
    made = Path(tempfile.mkdtemp(dir=beside))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def manifest_of(documents: int, shard_size: int) -> IndexManifest:
    """The manifest of an index of so many documents, with checksums as long as real ones."""
    counts = [min(shard_size, documents - start) for start in range(0, documents, shard_size)]
    parts = -(-int(documents * IvfPq().bytes_per_vector(documents, DIM)) // PART_BYTES)
    per_part = np.diff(np.linspace(0, documents, parts + 1).astype(int)).tolist()
    entries = tuple(PartEntry(layout.part_file(number), rows) for number, rows in enumerate(per_part))
    names = [name for number in range(len(counts)) for name in shard_files(number)]
    names += [*layout.doc_id_files(), *(entry.file for entry in entries)]
    return IndexManifest(
        format_version=3,
        corpus=CorpusRecord("corpus", "f" * 64),
        document_count=documents,
        encoder=EncoderRecord("model", "a" * 64, DIM, 256, {}, "mean", "bfloat16"),
        metric="inner_product",
        family="ivf-pq",
        family_options={},
        factory="",
        search=SearchParams(64, 8),
        shard_size=shard_size,
        shards=tuple(
            ShardEntry(count, layout.vectors_file(number), layout.documents_file(number))
            for number, count in enumerate(counts)
        ),
        files={name: FileRecord(0, hashlib.sha256(name.encode()).hexdigest()) for name in names},
        build=BuildRecord(0.0, 0.0, 0.0, 0),
        versions={},
        created="2030-01-01T00:00:00+00:00",
        vector_format="float16",
        parts=entries,
    )


def files_of(documents: int, shard_size: int, beside: Path | None) -> dict[str, Any]:
    """The whole manifest, all records and all files of an index, without their contents."""
    manifest = manifest_of(documents, shard_size)
    with folder(beside) as made:
        for name in (*layout.FOLDERS,):
            (made / name).mkdir()
        for name in manifest.files:
            (made / name).touch()
        # An empty file has this checksum. Small files are compared by it at every opening.
        empty = FileRecord(0, hashlib.sha256(b"").hexdigest())
        manifest = dataclasses.replace(manifest, files=dict.fromkeys(manifest.files, empty))
        for number, shard in enumerate(manifest.shards):
            files = {name: manifest.files[name] for name in shard_files(number)}
            path = made / layout.record_file(number)
            record = dataclasses.asdict(ShardRecord(shard.documents, "f" * 64, "a" * 64, 9.9, files))
            path.write_text(json.dumps({"format": layout.FORMAT, **record}, indent=2))
        written, _ = seconds(lambda: write_manifest(made, manifest))
        before = memory()["own"]
        opened, read = seconds(lambda: read_manifest(made))
        grown = memory()["own"] - before
        checked, _ = seconds(lambda: verify_files(made, read))
        resumed, records = seconds(lambda: read_records(made))
        assert len(records) == len(manifest.shards)
        point = {
            "documents": documents,
            "shard_size": shard_size,
            "shards": len(manifest.shards),
            "parts": len(manifest.parts),
            "files": sum(len(files) for *_, files in os.walk(made)) + len(manifest.shards),  # With the ids of shards.
            "manifest_bytes": (made / layout.MANIFEST).stat().st_size,
            "manifest_memory_bytes": grown,
            "seconds": {
                "write manifest": written,
                "read manifest": opened,
                "compare sizes of all files": checked,
                "read records of shards": resumed,
            },
        }
        print(json.dumps(point), flush=True)  # Before a million files are deleted.
        return point


def rates(beside: Path | None) -> dict[str, float]:
    """What grows with the documents, by document, on a sample."""
    generator = np.random.default_rng(0)
    ids = [f"d{number}" for number in generator.permutation(SAMPLED).tolist()]
    guard = IdGuard("corpus")
    blocks = [ids[start : start + DEFAULT_SHARD_SIZE] for start in range(0, SAMPLED, DEFAULT_SHARD_SIZE)]
    guarded, _ = seconds(lambda: [guard.admit(block, lambda: iter(())) for block in blocks])
    words = [f"w{number}" for number in range(20_000)]
    picked = generator.integers(0, len(words), (TEXTS, 50))
    with folder(beside) as made:
        listed, _ = seconds(lambda: write_lines(made / "docids", iter(ids)))
        list_bytes = sum(path.stat().st_size for path in made.iterdir())
        with open(made / "docs.jsonl", "w", encoding="utf-8") as lines:
            for number, row in enumerate(picked.tolist()):
                text = " ".join(words[each] for each in row)
                lines.write(json.dumps({"_id": f"d{number}", "text": text}) + "\n")

        def read() -> None:
            fingerprint, block = Fingerprint(), list[Document]()
            for document in open_corpus(made / "docs.jsonl").documents():
                block.append(document)
                if len(block) == DEFAULT_SHARD_SIZE:
                    fingerprint.add(block)
                    block.clear()

        cut, _ = seconds(read)
    found = [
        (-np.sort(-generator.random((8192, 100), dtype=np.float32)), generator.integers(0, 1 << 30, (8192, 100)))
        for _ in range(2)
    ]
    merged, _ = seconds(lambda: better_of(*found, 100))
    return {
        "check an id": guarded / SAMPLED,
        "list an id": listed / SAMPLED,
        "bytes of the list of ids": list_bytes / SAMPLED,
        "read and fingerprint a document of 50 words": cut / TEXTS,
        "merge the 100 results of a query from a part": merged / 8192,
    }


def costs(documents: int, by_document: dict[str, float]) -> dict[str, Any]:
    """What follows for so many documents. Seconds are of one core, unless they say otherwise."""
    results = Path(__file__).parent / "results"
    scale = json.loads((results / "index_scale.json").read_text())["points"][-1]
    family = IvfPq()
    lists = family.number_of_lists(documents)
    trained = 64 * lists
    measured = family.number_of_lists(scale["documents"])
    structure = documents * family.bytes_per_vector(documents, DIM)
    return {
        "documents": documents,
        "vectors_float16_bytes": 2 * DIM * documents,
        "structure_bytes": round(structure),
        "lists": lists,
        "training_rows": trained,
        "training_rows_bytes": 4 * DIM * trained,
        # The products of k-means grow with the rows times the lists.
        "train_hours_of_two_cores": scale["seconds"]["train"] * (lists / measured) ** 2 / 3600,
        "fill_hours_of_two_cores": documents / scale["documents"] * scale["seconds"]["add"] / 3600,
        "ids_on_disk_bytes": documents * by_document["bytes of the list of ids"],
        "ids_checked_memory_bytes": 8 * documents,
        "ids_checked_hours": documents * by_document["check an id"] / 3600,
        "ids_listed_hours": documents * by_document["list an id"] / 3600,
        "read_hours": documents * by_document["read and fingerprint a document of 50 words"] / 3600,
    }


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--beside", type=Path, help="a folder for temporary files")
    parser.add_argument("--documents", type=int, nargs="*", default=[100_000_000, 1_000_000_000])
    asked = parser.parse_args()
    by_document = rates(asked.beside)
    points = []
    for documents in asked.documents:
        chosen = max(DEFAULT_SHARD_SIZE, least_shard_size(documents))
        for shard_size in sorted({DEFAULT_SHARD_SIZE, chosen}):
            points.append(files_of(documents, shard_size, asked.beside))
    result = {
        "what": "manifest, records and files of the whole index; other costs by a sample, seconds of one core",
        "environment": read_environment().to_json(),
        "files": points,
        "by_document": by_document,
        "costs": [costs(documents, by_document) for documents in asked.documents],
    }
    print(json.dumps(result, indent=2))
    if asked.output:
        asked.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
