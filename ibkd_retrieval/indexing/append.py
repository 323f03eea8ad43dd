"""Appends documents to a finished index.

Only the new documents are encoded. Searches see the old index until all of them are added.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.encoders.weights import recognise_former
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.finish import (
    build_record,
    library_versions,
    now,
    shard_entries,
    shard_file_records,
)
from ibkd_retrieval.indexing.building.memory import MemoryPlan
from ibkd_retrieval.indexing.building.plan import (
    BuildPlan,
    TakenIds,
    chained_fingerprint,
    differing_fields,
    refusals_named,
    write_plan,
)
from ibkd_retrieval.indexing.building.stage import ShardStage
from ibkd_retrieval.indexing.building.workers import EncoderProcesses
from ibkd_retrieval.indexing.contents import IndexContents, open_contents
from ibkd_retrieval.indexing.faiss_binding import write_structure
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import write_lines
from ibkd_retrieval.indexing.format.manifest import (
    Change,
    CorpusRecord,
    EncoderRecord,
    IndexManifest,
    read_manifest,
    write_manifest,
)
from ibkd_retrieval.indexing.format.shards import ShardRecord, file_record, read_records, stored_ids
from ibkd_retrieval.indexing.format.writing import only_writer
from ibkd_retrieval.indexing.index import read_structure
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True)
class AppendPlan:
    """`append.json`: the plan of an unfinished append, and the number of its first shard."""

    build: BuildPlan
    first: int


def append_documents(
    corpus: Corpus,
    encoder: TextEncoder,
    folder: Path | str,
    *,
    resume: bool = False,
    restart: bool = False,
    memory: MemoryPlan | None = None,
    processes: EncoderProcesses | None = None,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Encode the documents of a corpus and add them to a finished index.

    The new rows follow the existing ones. The structure is not trained again: new vectors go into its existing lists
    and codes. New files are written beside the old ones, and then the manifest is replaced in one step. If the process
    is killed before that, the index is unchanged.

    Args:
        corpus: the new documents, read once. Their ids must not be in the index, except as deleted documents.
        encoder: the encoder that made the index.
        folder: the folder of the finished index.
        resume: continue an interrupted append.
        restart: discard an interrupted append.
        memory: sizes within a memory budget. None uses the index's own shard size.
        processes: processes that encode instead of this one.
        progress: receives the progress.

    Raises:
        UserError: there is no sound index, the encoder is another one, an id is taken, the corpus is empty, another
            append is unfinished, or another process writes to the folder.
        WorkFailed: an encoder process died.
        OSError: the disk is full or fails.
    """
    with only_writer(Path(folder)):
        return _append(corpus, encoder, Path(folder), resume, restart, memory, processes, progress)


def _append(
    corpus: Corpus,
    encoder: TextEncoder,
    folder: Path,
    resume: bool,
    restart: bool,
    memory: MemoryPlan | None,
    processes: EncoderProcesses | None,
    progress: Progress,
) -> IndexManifest:
    manifest = read_manifest(folder)
    manifest.encoder.refuse_unnamed(folder)
    recorded = manifest.encoder.former_hash
    recognise_former(encoder, recorded, lambda: open_contents(folder).sample(), f"The index {folder}", progress.say)
    given = EncoderRecord.of(encoder)
    if not manifest.encoder.makes_the_vectors_of(given):
        raise UserError(
            f"The index in {folder} was made with the model {manifest.encoder.name} and {encoder.name} would give "
            f"other vectors ({differing_fields(manifest.encoder, given)} differ): append with the same model."
        )
    if next(corpus.documents(), None) is None:
        raise UserError(f"The corpus {corpus.name} holds no documents: there is nothing to append.")
    if memory is not None and memory.shard_size > manifest.shard_size:
        progress.say(f"New shards hold {manifest.shard_size:,} documents, as those that are there.")
    before = open_contents(folder, structure=True)  # New vectors go into it.
    build = BuildPlan(
        corpus=corpus.name,
        encoder=manifest.encoder,
        shard_size=min(manifest.shard_size, memory.shard_size) if memory is not None else manifest.shard_size,
        shard_text=memory.shard_text if memory is not None else None,
        vector_format=manifest.vector_format,
    )
    with refusals_named(folder):
        plan = _claim(folder, AppendPlan(build, len(manifest.shards)), resume, restart)
        stage = ShardStage(
            corpus=corpus,
            encoder=encoder,
            folder=folder,
            plan=plan.build,
            begun={number: record for number, record in read_records(folder).items() if number >= plan.first},
            progress=progress,
            first=plan.first,
            taken=TakenIds(before.present_ids, partial(_refusal, folder, corpus.name)),
            processes=processes,
            depth=memory.depth if memory is not None else 1,
        )
        try:
            records, fingerprint = stage.run()
        except UserError:
            if not any(number >= plan.first for number in read_records(folder)):
                # No shard was encoded that another run could resume from.
                (folder / layout.APPEND_PLAN).unlink(missing_ok=True)
            raise
        return _add(folder, before, records, corpus.name, fingerprint, progress)


def _claim(folder: Path, plan: AppendPlan, resume: bool, restart: bool) -> AppendPlan:
    """Record that an append has begun. Return its plan, or that of the append to resume."""
    begun = _begun(folder, plan.first)
    if begun is not None and not restart:
        if not resume:
            raise UserError(
                f"An append of {begun.build.corpus} to {folder} is unfinished: go on with `append(resume=True)`, or "
                "drop it with `append(overwrite=True)`."
            )
        if (begun.build.corpus, begun.build.encoder.weight_hash) != (plan.build.corpus, plan.build.encoder.weight_hash):
            raise UserError(
                f"An append of {begun.build.corpus} to {folder} is unfinished, not one of {plan.build.corpus}: finish "
                "that with `append(resume=True)`, or drop it with `append(overwrite=True)`."
            )
        layout.remove_leftovers(folder, read_manifest(folder).files)
        return begun
    manifest = read_manifest(folder)
    layout.remove_unlisted(folder, manifest.files, len(manifest.shards))
    write_plan(folder / layout.APPEND_PLAN, plan)
    return plan


def _begun(folder: Path, first: int) -> AppendPlan | None:
    """The interrupted append. An append that lacks only its cleanup does not count."""
    path = folder / layout.APPEND_PLAN
    if not path.exists():
        return None
    try:
        plan = decode(AppendPlan, parse(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): drop that append with `append(overwrite=True)`.") from error
    return plan if plan.first == first else None


def _add(
    folder: Path,
    before: IndexContents,
    records: Sequence[ShardRecord],
    corpus: str,
    fingerprint: str,
    progress: Progress,
) -> IndexManifest:
    start = time.perf_counter()
    manifest = before.manifest
    first = len(manifest.shards)
    added = sum(record.documents for record in records)
    counts = [shard.documents for shard in manifest.shards] + [record.documents for record in records]
    structure = manifest.structure
    files = {name: record for name, record in manifest.files.items() if name not in _replaced(manifest)}
    files |= shard_file_records(records)
    if manifest.structure in manifest.files:
        index = read_structure(folder, manifest)
        with progress.task("Adding vectors", added, "vectors") as task:
            for shard in ShardVectors(folder, counts, manifest.dim).from_shard(first):
                index.add(np.ascontiguousarray(shard))
                task.advance(len(shard))
        structure = layout.next_name(folder, "index", ".faiss")
        write_structure(index, folder / structure)
        files[structure] = file_record(folder, structure)
    doc_ids = layout.next_name(folder, layout.DOC_IDS)
    write_lines(folder / doc_ids, chain(before.all_ids(), stored_ids(folder, len(counts), first)))
    files |= {name: file_record(folder, name) for name in layout.doc_id_files(doc_ids)}
    changes = (*manifest.changes, Change("append", added, corpus, fingerprint))
    if not manifest.search.is_exact and manifest.rows + added > 2 * _trained_rows(manifest):
        progress.say(
            f"Most documents of {folder} came after its quantisers were trained: train them anew with "
            f"`combine(from_='{folder}', type='{manifest.family}')`."
        )
    entries = shard_entries([*_as_records(manifest), *records])
    cost = build_record(records, time.perf_counter() - start)
    after = dataclasses.replace(
        manifest,
        corpus=CorpusRecord(
            manifest.corpus.name, chained_fingerprint(manifest.corpus.fingerprint, "append", fingerprint)
        ),
        document_count=manifest.document_count + added,
        shards=entries,
        files=files,
        build=dataclasses.replace(
            cost,
            encode_seconds=round(manifest.build.encode_seconds + cost.encode_seconds, 3),
            structure_seconds=round(manifest.build.structure_seconds + cost.structure_seconds, 3),
        ),
        versions=library_versions(),
        created=now(),
        structure=structure,
        doc_ids=doc_ids,
        changes=changes,
    )
    after = write_manifest(folder, after)
    layout.remove_unlisted(folder, after.files, len(after.shards))
    return after


def _trained_rows(manifest: IndexManifest) -> int:
    """The number of rows when the structure was trained."""
    if manifest.trained_rows is not None:
        return manifest.trained_rows
    return manifest.rows - sum(change.documents for change in manifest.changes if change.kind == "append")


def _replaced(manifest: IndexManifest) -> tuple[str, ...]:
    return (manifest.structure, *layout.doc_id_files(manifest.doc_ids))


def _as_records(manifest: IndexManifest) -> Iterator[ShardRecord]:
    return (ShardRecord(shard.documents, "", "", 0.0, {}) for shard in manifest.shards)


def _refusal(folder: Path, corpus: str, doc_id: str) -> UserError:
    return UserError(
        f"The document id {doc_id!r} of {corpus} is already in the index in {folder}: leave the document out, or "
        "delete the old one first with `delete()`."
    )
