"""Documents into a finished index folder, in bounded memory, resumable after any interruption."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing import layout
from ibkd_retrieval.indexing.claim import BuildPlan, claim, refusals_named
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Family, family_named, family_options
from ibkd_retrieval.indexing.identity import Fingerprint, IdGuard, fingerprint
from ibkd_retrieval.indexing.lines import write_lines
from ibkd_retrieval.indexing.manifest import (
    BuildRecord,
    CorpusRecord,
    EncoderRecord,
    FileRecord,
    IndexManifest,
    ShardEntry,
    read_manifest,
    write_manifest,
)
from ibkd_retrieval.indexing.shards import (
    ShardRecord,
    ShardVectors,
    file_record,
    is_intact,
    read_records,
    stored_ids,
    write_shard,
)
from ibkd_retrieval.indexing.structure import write_structure
from ibkd_retrieval.progress import SILENT, Progress, Task


def build_index(
    corpus: Corpus,
    encoder: TextEncoder,
    folder: Path | str,
    *,
    family: str | Family = "flat",
    resume: bool = False,
    overwrite: bool = False,
    shard_size: int = 8192,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Encode a corpus and make an index folder of it.

    Documents are read in shards of `shard_size`; each shard's vectors, texts and record are on disk before the next is
    read. Encoding a shard depends on nothing but its documents, so a build that was interrupted and resumed ends in
    the same vectors, byte for byte, as one that was not.

    Args:
        corpus: read once, from the start.
        encoder: encodes `Document.content` as documents.
        folder: made if need be.
        family: how the vectors are arranged, by name or with options (`families.family_named`).
        resume: continue an unfinished index, or repair a finished one: intact shards are kept, the rest is encoded.
            With another family, the structure is made anew from the shards.
        overwrite: delete the index that is in `folder` first; files that are not of an index stay.
        shard_size: documents a shard; a resumed build keeps the size it began with.
        progress: told of the work.

    Returns:
        The manifest, as written.

    Raises:
        UserError: the corpus is empty, changed since the build began, or has unfit or repeated ids; the folder is
            taken or cannot be written; the encoder is another one than the build began with or gives vectors that are
            not finite.
        MissingPackage: faiss is not installed.
        OSError: the disk is full or fails.
    """
    folder = Path(folder)
    family = family_named(family) if isinstance(family, str) else family
    load_faiss()  # Missing, it should be missed now and not after hours of encoding.
    if resume and overwrite:
        raise UserError("An index is either resumed or overwritten: give one of --resume and --overwrite.")
    if shard_size < 1:
        raise UserError(f"A shard must hold at least one document, not {shard_size}.")
    if next(corpus.documents(), None) is None:
        raise UserError(f"The corpus {corpus.name} holds no documents: there is nothing to index.")
    with refusals_named(folder):
        plan = BuildPlan(corpus.name, EncoderRecord.of(encoder), shard_size)
        plan = claim(folder, plan, resume, overwrite, progress)
        return _Build(corpus, encoder, folder, plan, progress).run(family)


class _Build:
    """One run of a build in a folder that has been claimed."""

    def __init__(self, corpus: Corpus, encoder: TextEncoder, folder: Path, plan: BuildPlan, progress: Progress) -> None:
        self.corpus = corpus
        self.encoder = encoder
        self.folder = folder
        self.plan = plan
        self.progress = progress
        self.begun = read_records(folder)

    def run(self, family: Family) -> IndexManifest:
        records, corpus_fingerprint = self._encode_shards()
        count = sum(record.documents for record in records)
        family = family.suited_to(count, self.progress)
        finished = self._finished(records, corpus_fingerprint, family)
        if finished is not None:
            self.progress.say(f"The index in {self.folder} is finished and intact: nothing was left to do.")
            return finished
        self._withdraw()
        start = time.perf_counter()
        vectors = ShardVectors(self.folder, [record.documents for record in records], self.encoder.dim)
        built = family.build(vectors, self.progress)
        structure = self.folder / layout.STRUCTURE
        if built.index is None:
            structure.unlink(missing_ok=True)
        else:
            write_structure(built.index, structure)
        write_lines(self.folder / layout.DOC_IDS, stored_ids(self.folder, len(records)))
        structure_seconds = time.perf_counter() - start
        files: dict[str, FileRecord] = {}
        for record in records:
            files |= record.files
        names = layout.doc_id_files() if built.index is None else (layout.STRUCTURE, *layout.doc_id_files())
        for name in names:
            files[name] = file_record(self.folder, name)
        encode_seconds = sum(record.encode_seconds for record in records)
        manifest = IndexManifest(
            format_version=layout.FORMAT_VERSION,
            corpus=CorpusRecord(self.corpus.name, corpus_fingerprint),
            document_count=count,
            encoder=self.plan.encoder,
            metric="inner_product",
            family=family.name,
            family_options=family_options(family),
            factory=built.factory,
            search=built.search,
            shard_size=self.plan.shard_size,
            shards=_entries(records),
            files=files,
            build=BuildRecord(
                encode_seconds=round(encode_seconds, 3),
                structure_seconds=round(structure_seconds, 3),
                documents_per_second=round(count / max(encode_seconds, 1e-9), 1),
                peak_memory_bytes=_peak_memory_bytes(),
            ),
            versions=_versions(),
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            operating_points=built.operating_points,
        )
        write_manifest(self.folder, manifest)
        return manifest

    def _encode_shards(self) -> tuple[list[ShardRecord], str]:
        """Make every shard that is not there and intact; return all records and the corpus's fingerprint."""
        kept = self._intact_shards()
        whole = Fingerprint()
        guard = IdGuard(self.corpus.name)
        records: list[ShardRecord] = []
        done = sum(record.documents for record in kept.values())
        documents = self.corpus.documents()
        with self.progress.task("Encoding documents", self.corpus.count, "documents", done) as task:
            while shard := list(islice(documents, self.plan.shard_size)):
                number = len(records)
                whole.add(shard)
                # Before the ids: a corpus that changed may well repeat those of shards it no longer agrees with.
                shard_fingerprint = fingerprint(shard)
                if number in self.begun and self.begun[number].fingerprint != shard_fingerprint:
                    raise self._changed(number)
                guard.admit([document.doc_id for document in shard], lambda: stored_ids(self.folder, len(records)))
                if number in kept:
                    records.append(kept[number])
                else:
                    records.append(self._encode_shard(number, shard, shard_fingerprint, task))
        if self.begun and max(self.begun) >= len(records):
            raise self._changed(len(records))
        return records, whole.hexdigest()

    def _intact_shards(self) -> dict[int, ShardRecord]:
        kept = {}
        if self.begun:
            with self.progress.task("Verifying shards", len(self.begun), "shards") as task:
                for number, record in self.begun.items():
                    if record.weight_hash == self.plan.encoder.weight_hash and is_intact(self.folder, record.files):
                        kept[number] = record
                    else:
                        self.progress.say(f"Shard {number} in {self.folder} is damaged and will be encoded again.")
                    task.advance()
        return kept

    def _encode_shard(self, number: int, shard: list[Document], shard_fingerprint: str, task: Task) -> ShardRecord:
        start = time.perf_counter()
        vectors = self.encoder.encode([document.content for document in shard], "document", task)
        seconds = time.perf_counter() - start
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._check(vectors, shard)
        self._withdraw()
        return write_shard(
            self.folder,
            number,
            shard,
            vectors,
            fingerprint=shard_fingerprint,
            weight_hash=self.plan.encoder.weight_hash,
            encode_seconds=round(seconds, 3),
        )

    def _check(self, vectors: NDArray[np.float32], shard: list[Document]) -> None:
        due = (len(shard), self.encoder.dim)
        if vectors.shape != due:
            raise UserError(
                f"The model {self.encoder.name} gave vectors of shape {vectors.shape} where {due} was due: "
                "its configuration and its weights do not agree."
            )
        unfit = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(unfit):
            raise UserError(
                f"The model {self.encoder.name} gave a vector that is not finite (NaN or infinity) for the document "
                f"{shard[unfit[0]].doc_id!r}: try --dtype float32, or another model."
            )

    def _finished(self, records: list[ShardRecord], corpus_fingerprint: str, family: Family) -> IndexManifest | None:
        """The manifest, if there is one and it describes just what this build would make."""
        if not (self.folder / layout.MANIFEST).exists():
            return None
        manifest = read_manifest(self.folder)
        same = (
            manifest.corpus.fingerprint == corpus_fingerprint
            and manifest.shards == _entries(records)
            and (manifest.family, manifest.family_options) == (family.name, family_options(family))
        )
        return manifest if same and is_intact(self.folder, manifest.files) else None

    def _withdraw(self) -> None:
        """Make the folder an unfinished one before anything the manifest describes is replaced."""
        (self.folder / layout.MANIFEST).unlink(missing_ok=True)

    def _changed(self, number: int) -> UserError:
        return UserError(
            f"The corpus {self.corpus.name} is not the one that the index in {self.folder} was begun with (it differs "
            f"from document {number * self.plan.shard_size + 1:,} on, or soon after): index it anew with --overwrite."
        )


def _entries(records: list[ShardRecord]) -> tuple[ShardEntry, ...]:
    return tuple(
        ShardEntry(record.documents, layout.vectors_file(number), layout.documents_file(number))
        for number, record in enumerate(records)
    )


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("ibkd-retrieval", "faiss-cpu", "faiss-gpu", "numpy", "torch", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
