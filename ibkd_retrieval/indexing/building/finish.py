"""The last stage of a build: makes the structure, the list of ids and the manifest from the shards."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import peak_memory_bytes
from ibkd_retrieval.indexing.building.plan import BuildPlan
from ibkd_retrieval.indexing.cluster_structure import NodesMake
from ibkd_retrieval.indexing.faiss_binding import write_structure
from ibkd_retrieval.indexing.families import Family, Flat, family_options
from ibkd_retrieval.indexing.families.auto import Wanted
from ibkd_retrieval.indexing.families.factory import Factory
from ibkd_retrieval.indexing.families.family import STORED_ONCE_BYTES
from ibkd_retrieval.indexing.families.inverted import Inverted
from ibkd_retrieval.indexing.families.parts import AddingInParts, Parts, part_plans
from ibkd_retrieval.indexing.families.search_params import list_count
from ibkd_retrieval.indexing.families.training import HERE, Making, TrainedOnce, parsed, train_here
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import write_lines
from ibkd_retrieval.indexing.format.manifest import (
    BuildRecord,
    Change,
    CorpusRecord,
    FileRecord,
    IndexManifest,
    OperatingPoint,
    ShardEntry,
    write_manifest,
)
from ibkd_retrieval.indexing.format.shards import ShardRecord, file_record, stored_ids
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import Progress

_RESIDENT_BYTES = 64 << 20

WORTH_SPREADING = 1_000_000
"""Number of vectors of a part that is filled elsewhere, and merged."""

_MOST_PLACES = 256


def finish_index(
    folder: Path,
    records: Sequence[ShardRecord],
    corpus: CorpusRecord,
    plan: BuildPlan,
    family: Family,
    progress: Progress,
    changes: tuple[Change, ...] = (),
    device: str = "cpu",
    limit: int | None = None,
    parts: int | None = None,
    cluster: Cluster | None = None,
) -> IndexManifest:
    """Make the structure and the list of ids from the shards, and write the manifest last.

    Args:
        folder: the index folder, with the shards 0 to n - 1 and no manifest.
        records: the records of the shards, in order.
        corpus: the corpus entry of the manifest.
        plan: the build plan of the shards.
        family: the family to build, suited to the number of documents.
        progress: receives the progress.
        changes: the changes entry of the manifest.
        device: where the structure is trained (`faiss_binding.training_on`).
        limit: maximum bytes of memory of the structure. A larger flat index has no structure, and every search
            reads the shards. Larger inverted lists are kept in parts.
        parts: number of files to keep the structure in. None is one, or as many as `limit` requires.
        cluster: nodes that train a structure of inverted lists and fill its parts. A structure in one file is then
            filled in parts too, if it is large, and merged.

    Raises:
        UserError: another structure exceeds the limit.
        OSError: the disk is full or fails.
    """
    start = time.perf_counter()
    counts = [record.documents for record in records]
    # Trials read rows from all files, which would map all of them into the build's memory.
    vectors = ShardVectors(folder, counts, plan.encoder.dim, resident=_RESIDENT_BYTES)
    tried: tuple[OperatingPoint, ...] = ()
    if isinstance(family, Wanted):
        family, tried = family.choice(vectors, progress)
        progress.say(f"Chosen by trial: an index of type {family.name}.")
    kept = _parts_of(family, vectors.count, vectors.dim, limit, parts)
    spread = vectors.count // WORTH_SPREADING if cluster is not None and has_lists(family, vectors.dim) else 0
    plans = part_plans(folder, counts, vectors.dim, kept or min(spread, _MOST_PLACES)) if kept or spread > 1 else []
    # One shard is one part, which is no different from the whole.
    making = HERE
    if len(plans) > 1:
        nodes = None if cluster is None else NodesMake(cluster, folder, tuple(counts), progress)
        adding = AddingInParts(plans, kept > 0, limit, None if nodes is None else nodes.fill)
        digests = tuple(record.files[layout.vectors_file(number)].sha256 for number, record in enumerate(records))
        making = Making(TrainedOnce(folder, digests, train_here if nodes is None else nodes.train), adding)
    if isinstance(family, Flat) and limit is not None:
        family = Flat(min(limit, STORED_ONCE_BYTES if family.memory_bytes is None else family.memory_bytes))
    built = family.build(vectors, progress, device, making)
    entries = tuple(plan.entry for plan in plans) if isinstance(built.index, Parts) else ()
    if built.index is None or entries:
        (folder / layout.STRUCTURE).unlink(missing_ok=True)
    else:
        write_structure(built.index, folder / layout.STRUCTURE)
    layout.remove_parts(folder, [entry.file for entry in entries])
    write_lines(folder / layout.DOC_IDS, stored_ids(folder, dict(enumerate(records))))
    structure_seconds = time.perf_counter() - start
    structures = [entry.file for entry in entries] or ([layout.STRUCTURE] if built.index is not None else [])
    made = [*structures, *layout.doc_id_files()]
    manifest = IndexManifest(
        format_version=layout.FORMAT_VERSION,
        corpus=corpus,
        document_count=vectors.count,
        encoder=plan.encoder,
        metric="inner_product",
        family=family.name,
        family_options=family_options(family),
        factory=built.factory,
        search=built.search,
        shard_size=plan.shard_size,
        shards=shard_entries(records),
        files=shard_file_records(records) | {name: file_record(folder, name) for name in made},
        build=build_record(records, structure_seconds),
        versions=library_versions(),
        created=now(),
        operating_points=(*built.operating_points, *tried),
        vector_format=plan.vector_format,
        changes=changes,
        trained_rows=vectors.count,
        parts=entries,
    )
    manifest = write_manifest(folder, manifest)
    for number in range(len(records)):
        (folder / layout.ids_file(number)).unlink(missing_ok=True)
    return manifest


def check_structure_fits(family: Family, count: int, dim: int, limit: int | None, parts: int | None = None) -> None:
    """Refuse a structure that would exceed the memory limit and cannot be kept in parts. Encoded vectors are kept.

    Raises:
        UserError: the structure would exceed the limit, or `parts` is not for this family.
    """
    if parts is not None and parts < 1:
        raise UserError(f"A structure is kept in at least one part, not `parts={parts}`.")
    if parts is not None and parts > 1 and not isinstance(family, Wanted) and not has_lists(family, dim):
        raise UserError(
            f"An index of type {family.name} is not kept in parts, because it has no inverted lists: leave out "
            "`parts`, or give another `type`, such as ivf-pq."
        )
    needed = count * family.bytes_per_vector(count, dim)
    if limit is not None and needed > limit and not isinstance(family, Flat | Wanted) and not has_lists(family, dim):
        raise UserError(
            f"An index of type {family.name} of {count:,} vectors takes {needed / 1e6:,.0f} MB in memory and `memory` "
            f"allows {limit / 1e6:,.0f}: give more, or another `type`, such as ivf-pq, with `resume` where vectors "
            "are there already."
        )


def has_lists(family: Family, dim: int) -> bool:
    """Whether a family has inverted lists, whose structure can be kept in parts."""
    if isinstance(family, Factory):
        return list_count(parsed(family.factory, dim)) is not None
    return isinstance(family, Inverted)


def _parts_of(family: Family, count: int, dim: int, limit: int | None, parts: int | None) -> int:
    """The number of parts to keep a structure in. 0 for a structure in one file.

    A part takes at most half of the limit, because it is in memory with the vectors that are added to it.
    """
    if not has_lists(family, dim):
        # A flat family stands in for one that was asked for, where the documents are few.
        check_structure_fits(family, count, dim, limit)
        return 0
    check_structure_fits(family, count, dim, limit, parts)
    needed = count * family.bytes_per_vector(count, dim)
    if parts is None and limit is not None and needed > limit:
        parts = math.ceil(2 * needed / limit)
    return parts if parts is not None and parts > 1 else 0


def shard_entries(records: Sequence[ShardRecord]) -> tuple[ShardEntry, ...]:
    """The manifest's entries for shards 0 to n - 1."""
    return tuple(
        ShardEntry(record.documents, layout.vectors_file(number), layout.documents_file(number))
        for number, record in enumerate(records)
    )


def shard_file_records(records: Sequence[ShardRecord]) -> dict[str, FileRecord]:
    """The files of all shards."""
    files: dict[str, FileRecord] = {}
    for record in records:
        files |= record.files
    return files


def build_record(records: Sequence[ShardRecord], structure_seconds: float) -> BuildRecord:
    """The cost of the build, from the records of all shards."""
    encode_seconds = sum(record.encode_seconds for record in records)
    count = sum(record.documents for record in records)
    return BuildRecord(
        encode_seconds=round(encode_seconds, 3),
        structure_seconds=round(structure_seconds, 3),
        documents_per_second=round(count / max(encode_seconds, 1e-9), 1),
        peak_memory_bytes=peak_memory_bytes(),
    )


def now() -> str:
    """The time as a manifest gives it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a build uses."""
    versions = {"python": platform.python_version()}
    for package in ("ibkd-retrieval", "faiss-cpu", "faiss-gpu", "numpy", "torch", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
