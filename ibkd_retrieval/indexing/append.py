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
    differing_fields,
    write_plan,
)
from ibkd_retrieval.indexing.building.stage import ShardStage
from ibkd_retrieval.indexing.building.workers import ShardEncoders
from ibkd_retrieval.indexing.contents import IndexContents, open_contents
from ibkd_retrieval.indexing.delete import without_rows
from ibkd_retrieval.indexing.faiss_binding import write_structure
from ibkd_retrieval.indexing.families.parts import begun_part
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import write_lines
from ibkd_retrieval.indexing.format.manifest import (
    Change,
    EncoderRecord,
    IndexManifest,
    PartEntry,
    read_manifest,
    write_manifest,
)
from ibkd_retrieval.indexing.format.shards import ShardRecord, file_record, read_records, stored_ids
from ibkd_retrieval.indexing.format.writing import only_writer, refusals_named
from ibkd_retrieval.indexing.index import read_structure
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True)
class AppendPlan:
    """`append.json`, the plan of an unfinished append.

    Attributes:
        build: the plan of the new shards.
        first: number of the first new shard.
        replace: whether the new documents replace those of the same ids.
    """

    build: BuildPlan
    first: int
    replace: bool = False


def append_documents(
    corpus: Corpus,
    encoder: TextEncoder,
    folder: Path | str,
    *,
    replace: bool = False,
    resume: bool = False,
    restart: bool = False,
    memory: MemoryPlan | None = None,
    processes: ShardEncoders | None = None,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Encode the documents of a corpus and add them to a finished index.

    The new rows follow the existing ones. The structure is not trained again: new vectors go into its existing lists
    and codes. New files are written beside the old ones, and then the manifest is replaced in one step. If the process
    is killed before that, the index is unchanged. With `replace`, the same step deletes the old documents of the new
    ids, so a search finds all old documents or all new ones.

    `api.append` describes the arguments; `restart` is its `overwrite`. `memory` and `processes` are those of
    `build.build_index`; without `memory`, new shards are as large as the index's own.

    Raises:
        UserError: there is no sound index, the encoder is another one, an id is taken, the corpus is empty, another
            append is unfinished, or another process writes to the folder.
        WorkFailed: an encoder process died.
        OSError: the disk is full or fails.
    """
    folder = Path(folder)
    with only_writer(folder, say=progress.say):
        manifest = read_manifest(folder)
        _check(corpus, encoder, folder, manifest, progress)
        memory = memory or MemoryPlan.unlimited(manifest.shard_size)
        if memory.shard_size > manifest.shard_size:
            progress.say(f"New shards hold {manifest.shard_size:,} documents, like the existing shards.")
        before = open_contents(folder, structure=True)  # New vectors go into it.
        build = BuildPlan(
            corpus=corpus.name,
            encoder=manifest.encoder,
            shard_size=min(manifest.shard_size, memory.shard_size),
            shard_text=memory.shard_text,
            vector_format=manifest.vector_format,
        )
        with refusals_named(folder):
            plan = _claim(folder, AppendPlan(build, len(manifest.shards), replace), resume, restart)
            stage = ShardStage(
                corpus=corpus,
                encoder=encoder,
                folder=folder,
                plan=plan.build,
                begun=_records_from(folder, plan.first),
                progress=progress,
                first=plan.first,
                taken=None if plan.replace else TakenIds(before.present_ids, partial(_refusal, folder, corpus.name)),
                processes=processes,
                depth=memory.depth,
                readers=memory.readers,
            )
            try:
                records, fingerprint = stage.run()
            except UserError:
                if not _records_from(folder, plan.first):
                    # No shard was encoded that another run could resume from.
                    (folder / layout.APPEND_PLAN).unlink(missing_ok=True)
                raise
            manifest = _without_replaced(folder, before, records, progress) if plan.replace else manifest
            change = Change("append", 0, corpus.name, fingerprint)
            return _add(folder, before, manifest, records, change, progress)


def _without_replaced(
    folder: Path, before: IndexContents, records: Sequence[ShardRecord], progress: Progress
) -> IndexManifest:
    """The manifest without the documents whose ids the new shards hold. It is not written yet."""
    new = set(stored_ids(folder, dict(enumerate(records, len(before.manifest.shards)))))
    rows = before.rows_of(new)
    progress.say(f"{len(rows):,} documents are replaced and {len(new) - len(rows):,} are added.")
    return without_rows(folder, before.manifest, rows) if rows else before.manifest


def _records_from(folder: Path, first: int) -> dict[int, ShardRecord]:
    return {number: record for number, record in read_records(folder).items() if number >= first}


def _check(corpus: Corpus, encoder: TextEncoder, folder: Path, manifest: IndexManifest, progress: Progress) -> None:
    """Refuse another encoder, and a corpus without documents."""
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
        if plan.replace and not begun.replace:
            raise UserError(
                f"The unfinished append to {folder} was begun without `replace`: leave that out with `resume`, or drop "
                "that append with `append(overwrite=True)`."
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
    manifest: IndexManifest,
    records: Sequence[ShardRecord],
    change: Change,
    progress: Progress,
) -> IndexManifest:
    """Add the new shards to the structure and to the ids, and replace the manifest."""
    start = time.perf_counter()
    change = dataclasses.replace(change, documents=sum(record.documents for record in records))
    counts = [*(shard.documents for shard in manifest.shards), *(record.documents for record in records)]
    structure, parts = _grown_structure(folder, manifest, counts, change.documents, progress)
    unchanged = {part.file for part in parts} & manifest.files.keys()
    replaced = {*manifest.structure_files, *layout.doc_id_files(manifest.doc_ids)} - unchanged
    files = {name: record for name, record in manifest.files.items() if name not in replaced}
    files |= shard_file_records(records)
    added = {*([part.file for part in parts] or [structure])} - {*manifest.structure_files, manifest.structure}
    files |= {name: file_record(folder, name) for name in added}
    doc_ids = layout.next_name(folder, layout.DOC_IDS)
    new = stored_ids(folder, dict(enumerate(records, len(manifest.shards))))
    write_lines(folder / doc_ids, chain(before.all_ids(), new))
    files |= {name: file_record(folder, name) for name in layout.doc_id_files(doc_ids)}
    cost = build_record(records, time.perf_counter() - start)
    after = dataclasses.replace(
        manifest,
        corpus=manifest.corpus.changed(change),
        document_count=manifest.document_count + change.documents,
        shards=shard_entries([*_as_records(manifest), *records]),
        files=files,
        build=dataclasses.replace(
            cost,
            encode_seconds=round(manifest.build.encode_seconds + cost.encode_seconds, 3),
            structure_seconds=round(manifest.build.structure_seconds + cost.structure_seconds, 3),
        ),
        versions=library_versions(),
        created=now(),
        structure=structure,
        parts=parts,
        doc_ids=doc_ids,
        changes=(*manifest.changes, change),
    )
    after = write_manifest(folder, after)
    layout.remove_unlisted(folder, after.files, len(after.shards))
    return after


def _grown_structure(
    folder: Path, manifest: IndexManifest, counts: Sequence[int], added: int, progress: Progress
) -> tuple[str, tuple[PartEntry, ...]]:
    """Write the structure with the vectors of the new shards. It is not trained again.

    Of a structure in parts, the last part is written, with the rows of the one before if both are no more than
    the largest part has.

    Returns:
        The name of its file, and its parts if it is in parts.
    """
    if not manifest.search.is_exact and manifest.rows + added > 2 * _trained_rows(manifest):
        progress.say(
            f"Most documents of {folder} came after its quantisers were trained: train them anew with "
            f"`combine(from_='{folder}', type='{manifest.family}')`."
        )
    if not manifest.structure_files:
        return manifest.structure, ()
    if manifest.parts:
        index, entries = begun_part(folder, manifest, added)
    else:
        index, entries = read_structure(folder, manifest), ()
    row = manifest.rows
    with progress.task("Adding vectors", added, "vectors") as task:
        for shard in ShardVectors(folder, counts, manifest.dim).from_shard(len(manifest.shards)):
            vectors = np.ascontiguousarray(shard)
            if manifest.parts:
                index.add_with_ids(vectors, np.arange(row, row + len(shard)))
            else:
                index.add(vectors)
            row += len(shard)
            task.advance(len(shard))
    name = entries[-1].file if entries else layout.next_name(folder, "index", ".faiss")
    write_structure(index, folder / name)
    return (manifest.structure, entries) if entries else (name, ())


def _trained_rows(manifest: IndexManifest) -> int:
    """The number of rows when the structure was trained."""
    if manifest.trained_rows is not None:
        return manifest.trained_rows
    return manifest.rows - sum(change.documents for change in manifest.changes if change.kind == "append")


def _as_records(manifest: IndexManifest) -> Iterator[ShardRecord]:
    return (ShardRecord(shard.documents, "", "", 0.0, {}) for shard in manifest.shards)


def _refusal(folder: Path, corpus: str, doc_id: str) -> UserError:
    return UserError(
        f"The document id {doc_id!r} of {corpus} is already in the index in {folder}: leave the document out, or "
        "let it take the old one's place with `append(replace=True)`."
    )
