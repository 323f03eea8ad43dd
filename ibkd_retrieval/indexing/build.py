"""Builds an index folder from documents, in bounded memory. An interrupted build can be resumed."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
from ibkd_retrieval.indexing.building.finish import check_structure_fits, finish_index, shard_entries
from ibkd_retrieval.indexing.building.memory import DEFAULT_SHARD_SIZE, MemoryPlan
from ibkd_retrieval.indexing.building.plan import BuildPlan, claim, noted_family
from ibkd_retrieval.indexing.building.stage import ShardStage
from ibkd_retrieval.indexing.building.workers import ShardEncoders
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Family, family_named, family_options
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.manifest import CorpusRecord, EncoderRecord, IndexManifest, read_manifest
from ibkd_retrieval.indexing.format.shards import ShardRecord, is_intact, read_records
from ibkd_retrieval.indexing.format.vectors import check_format
from ibkd_retrieval.indexing.format.writing import new_index
from ibkd_retrieval.json_io import parse
from ibkd_retrieval.progress import SILENT, Progress


def build_index(
    corpus: Corpus,
    encoder: TextEncoder,
    folder: Path | str,
    *,
    family: str | Family = "flat",
    resume: bool = False,
    overwrite: bool = False,
    shard_size: int = DEFAULT_SHARD_SIZE,
    vector_format: str = "float32",
    memory: MemoryPlan | None = None,
    processes: ShardEncoders | None = None,
    device: str = "cpu",
    parts: int | None = None,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Encode a corpus and make an index folder of it.

    Documents are read in shards. While one shard is encoded, the next is read and tokenised, and the previous one is
    written. A shard's vectors depend only on its documents. Interrupted builds and builds by several processes
    therefore give the same vectors, byte for byte, as one uninterrupted process.

    Args:
        corpus: read once, from the start.
        encoder: encodes `Document.content` as documents.
        folder: the index folder, created if absent.
        family: how the vectors are arranged, by name or with options (`families.family_named`).
        resume: continue an unfinished index, or repair a finished one. Intact shards are kept, the rest is encoded.
            With another family, the structure is built again from the shards.
        overwrite: replace the index in `folder`. It stays whole until the new one is finished. Files that do not
            belong to an index are kept.
        shard_size: maximum number of documents in a shard. A resumed build keeps its first size.
        vector_format: how vectors are stored: "float32", "float16" or "int8" (`vector_formats`).
        memory: sizes that keep the build within a memory budget (`memory.plan_memory`). They override `shard_size`.
        processes: processes that encode instead of this one. `encoder` describes what they must compute.
        device: where the structure is trained: "cpu", "cuda", or "auto" for a GPU where faiss can use one.
        parts: number of files to keep a structure of inverted lists in. None is one, or as many as `memory` requires.
        progress: receives the progress.

    Returns:
        The manifest, as written.

    Raises:
        UserError: the corpus is empty, changed since the build began, or has unfit or repeated ids; the folder is
            taken or cannot be written; the encoder differs from the one the build began with, or its vectors are not
            finite.
        WorkFailed: an encoder process died.
        MissingPackage: faiss is not installed.
        OSError: the disk is full or fails.
    """
    folder = Path(folder)
    family = family_named(family) if isinstance(family, str) else family
    load_faiss()  # Fails now if faiss is missing, and not after hours of encoding.
    if shard_size < 1:
        raise UserError(f"A shard must hold at least one document, not {shard_size}.")
    memory = memory or MemoryPlan.unlimited(shard_size)
    plan = BuildPlan(
        corpus=corpus.name,
        encoder=EncoderRecord.of(encoder),
        shard_size=memory.shard_size,
        shard_text=memory.shard_text,
        vector_format=check_format(vector_format),
        **noted_family(family),
    )
    _check_before_encoding(corpus, plan, family, memory.structure_limit, parts)
    with new_index(folder, resume, overwrite, progress) as folder:
        plan = claim(folder, plan, resume, overwrite, progress)
        refuse_changed(folder)
        stage = ShardStage(
            corpus=corpus,
            encoder=encoder,
            folder=folder,
            plan=plan,
            begun=_own_records(folder),
            progress=progress,
            processes=processes,
            depth=memory.depth,
            readers=memory.readers,
            before_writing=lambda: layout.withdraw(folder),
        )
        records, fingerprint = stage.run()
        family = family.suited_to(sum(record.documents for record in records), progress)
        finished = _finished(folder, records, fingerprint, family, parts)
        if finished is not None:
            progress.say(f"The index in {folder} is finished and intact: nothing was left to do.")
            return finished
        layout.withdraw(folder)
        named = CorpusRecord(corpus.name, fingerprint)
        limit = memory.structure_limit
        cluster = processes.cluster if isinstance(processes, ClusterEncoders) else None
        return finish_index(
            folder, records, named, plan, family, progress, device=device, limit=limit, parts=parts, cluster=cluster
        )


def _check_before_encoding(
    corpus: Corpus, plan: BuildPlan, family: Family, limit: int | None, parts: int | None
) -> None:
    """Refuse what would fail after hours of encoding."""
    family.bytes_per_vector(1, plan.encoder.dim)  # Refuses a dimension that does not suit the family.
    # Without a count only `parts` is checked: nothing takes no memory.
    check_structure_fits(family, corpus.count or 0, plan.encoder.dim, limit, parts)
    if next(corpus.documents(), None) is None:
        raise UserError(f"The corpus {corpus.name} holds no documents: there is nothing to index.")


def refuse_changed(folder: Path) -> None:
    """Refuse to go on with an index whose documents are no longer those of one corpus.

    Raises:
        UserError: it was appended to, deleted from or merged.
    """
    if not (folder / layout.MANIFEST).exists():
        return
    changes = read_manifest(folder).changes
    if changes:
        done = ", ".join(sorted({change.kind for change in changes}))
        raise UserError(
            f"The index in {folder} was changed since it was made ({done}), so no one corpus can repair it: check it "
            "with `describe(verify=True)`, make another structure of it with `combine()`, or index anew."
        )


def _own_records(folder: Path) -> dict[int, ShardRecord]:
    """The records of the build's shards, without those of an interrupted append."""
    records = read_records(folder)
    try:
        first = int(parse((folder / layout.APPEND_PLAN).read_bytes())["first"])
    except (OSError, ValueError, KeyError, TypeError):
        return records
    return {number: record for number, record in records.items() if number < first}


def _finished(
    folder: Path, records: list[ShardRecord], fingerprint: str, family: Family, parts: int | None
) -> IndexManifest | None:
    """The existing manifest, if it describes exactly what this build would make."""
    if not (folder / layout.MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    same = (
        manifest.corpus.fingerprint == fingerprint
        and manifest.shards == shard_entries(records)
        and (manifest.family, manifest.family_options) == (family.name, family_options(family))
        and manifest.is_in(parts)
    )
    return manifest if same and is_intact(folder, manifest.files) else None
