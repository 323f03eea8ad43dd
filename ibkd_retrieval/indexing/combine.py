"""Builds an index from other indexes: with another structure, another vector format, or merged."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count as numbers
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, sync_directory
from ibkd_retrieval.indexing.building.finish import check_structure_fits, finish_index
from ibkd_retrieval.indexing.building.plan import (
    BuildPlan,
    TakenIds,
    claim,
    differing_fields,
    fingerprint,
    noted_family,
)
from ibkd_retrieval.indexing.contents import IndexContents, first_unlike, open_contents
from ibkd_retrieval.indexing.families import Family, family_named, family_options
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import LineStore
from ibkd_retrieval.indexing.format.manifest import Change, CorpusRecord, EncoderRecord, IndexManifest, read_manifest
from ibkd_retrieval.indexing.format.shards import (
    ShardRecord,
    document_from_json,
    is_intact,
    read_records,
    shard_files,
    write_record,
    write_shard,
)
from ibkd_retrieval.indexing.format.vectors import check_format
from ibkd_retrieval.indexing.format.writing import new_index
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import SILENT, Progress

_UNIT_TOLERANCE = 0.02
"""Tolerance for the length of a unit vector that was stored rounded."""


def combine_indexes(
    sources: Sequence[Path | str],
    folder: Path | str,
    *,
    family: str | Family = "flat",
    vector_format: str | None = None,
    cut: EncoderRecord | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    parts: int | None = None,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Make an index of the documents of one or several others, without their corpora and without encoding.

    Shards are hard links to those of the sources where the file system allows it, and copies elsewhere. The links are
    safe, because files of an index are replaced whole and never modified. A shard is rewritten if it holds deleted
    documents, or if the vector format or the number of dimensions changes.

    `api.combine` and `build.build_index` describe the arguments. `vector_format` None keeps that of the first source.
    `cut` is the encoder of the sources with fewer Matryoshka dims (`Encoder.load` with `dim`): the vectors are cut to
    its dimension, and unit vectors are normalised again.

    Raises:
        UserError: a source is missing, damaged or by another encoder; two hold the same id; the folder is taken.
        OSError: the disk is full or fails.
    """
    folder = Path(folder)
    family = family_named(family) if isinstance(family, str) else family
    for source in map(Path, sources):
        if source.resolve() == folder.resolve():
            raise UserError(f"The index would be made in {folder}, which it is made from: name another `output`.")
    indexes = [open_contents(source) for source in sources]
    _check_encoders(indexes)
    _check_ids(indexes)
    manifests = [index.manifest for index in indexes]
    plan = dataclasses.replace(_plan(indexes, vector_format, cut), **noted_family(family))
    check_structure_fits(family, 0, plan.encoder.dim, None, parts)  # Before any work.
    corpus, changes = _history(manifests)
    if len(indexes) > 1 and not plan.encoder.weight_hash:
        progress.say("No model was named for these vectors: whether all were made by one is not known.")
    with new_index(folder, resume, overwrite, progress) as folder:
        plan = claim(folder, plan, resume, overwrite, progress)
        _refuse_others(folder, indexes, changes)
        documents = sum(manifest.document_count for manifest in manifests)
        family = family.suited_to(documents, progress)
        done = _finished(folder, corpus, plan, family, indexes)
        if done is not None and done.is_in(parts):
            progress.say(f"The index in {folder} is finished and intact: nothing was left to do.")
            return done
        layout.withdraw(folder)
        records = _take_shards(indexes, folder, plan, progress)
        manifest = finish_index(folder, records, corpus, plan, family, progress, changes, device, parts=parts)
        layout.remove_unlisted(folder, manifest.files, len(records))
        return manifest


def _refuse_others(folder: Path, indexes: Sequence[IndexContents], changes: tuple[Change, ...]) -> None:
    """Refuse to go on in a folder whose shards are not those of the sources, or which was changed itself."""
    if (folder / layout.MANIFEST).exists():
        own = read_manifest(folder).changes
        if own != changes[: len(own)]:
            raise UserError(
                f"The index in {folder} was changed since it was made ({own[-1].kind}), which would be lost: name "
                "another `output`, or replace it with `overwrite`."
            )
    expected = {record.fingerprint for index in indexes for record in read_records(index.folder).values()}
    if any(index.present is not None for index in indexes):
        return  # Shards are written anew without deleted documents, and what they will be is not known yet.
    if any(record.fingerprint not in expected for record in read_records(folder).values()):
        raise UserError(
            f"The index in {folder} was begun with other documents than those of "
            f"{', '.join(str(index.folder) for index in indexes)}: name another `output`, or replace it with "
            "`overwrite`."
        )


def _finished(
    folder: Path, corpus: CorpusRecord, plan: BuildPlan, family: Family, indexes: Sequence[IndexContents]
) -> IndexManifest | None:
    """The existing manifest, if it describes exactly what would be made."""
    if not (folder / layout.MANIFEST).exists():
        return None
    done = read_manifest(folder)
    same = (
        (done.corpus.fingerprint, done.vector_format) == (corpus.fingerprint, plan.vector_format)
        and (done.family, done.family_options) == (family.name, family_options(family))
        and not done.deleted_count
        and _same_vectors(done, plan, indexes)
    )
    return done if same and is_intact(folder, done.files) else None


def _same_vectors(done: IndexManifest, plan: BuildPlan, indexes: Sequence[IndexContents]) -> bool:
    """Whether the vectors of a finished index, whose documents are those of the sources, are theirs too."""
    if any(
        index.present is not None
        or (index.manifest.vector_format, index.manifest.dim) != (plan.vector_format, plan.encoder.dim)
        for index in indexes
    ):
        # They were written anew; the same model gives the same vectors for the same documents.
        return bool(plan.encoder.weight_hash)
    due = [index.manifest.files[entry.vectors] for index in indexes for entry in index.manifest.shards]
    return due == [done.files[entry.vectors] for entry in done.shards]


@dataclass(frozen=True)
class _Shard:
    """A shard of a source index, its number there, and the mask of its documents that are not deleted."""

    index: IndexContents
    number: int
    record: ShardRecord
    present: np.ndarray[tuple[int], np.dtype[np.bool_]]


def _take_shards(
    indexes: Sequence[IndexContents], folder: Path, plan: BuildPlan, progress: Progress
) -> list[ShardRecord]:
    begun = read_records(folder)
    records: list[ShardRecord] = []
    total = sum(len(index.manifest.shards) for index in indexes)
    target = numbers()
    with progress.task("Taking shards", total, "shards") as task:
        for shard in _shards(indexes):
            task.advance()
            if not shard.present.any():
                continue
            number = next(target)
            same_vectors = (
                shard.record.vector_format == plan.vector_format and shard.index.manifest.dim == plan.encoder.dim
            )
            if shard.present.all() and same_vectors:
                records.append(_link(shard, folder, number, begun.get(number)))
            else:
                records.append(_rewrite(shard, folder, number, plan, begun.get(number)))
    for name in ("vectors", "documents"):
        if (folder / name).is_dir():
            sync_directory(folder / name)  # Links are not durable by themselves.
    return records


def _shards(indexes: Sequence[IndexContents]) -> Iterator[_Shard]:
    for index in indexes:
        records, start = read_records(index.folder), 0
        for number, entry in enumerate(index.manifest.shards):
            files = {name: index.manifest.files[name] for name in shard_files(number)}
            if number not in records or records[number].files != files or not is_intact(index.folder, files):
                raise UserError(
                    f"Shard {number} of the index in {index.folder} is damaged: repair that index with "
                    "`build_index(resume=True)` first, or make it anew."
                )
            rows = slice(start, start + entry.documents)
            present = np.ones(entry.documents, dtype=np.bool_) if index.present is None else index.present[rows]
            yield _Shard(index, number, records[number], present)
            start += entry.documents


def _link(shard: _Shard, folder: Path, number: int, begun: ShardRecord | None) -> ShardRecord:
    names = dict(zip(shard_files(shard.number), shard_files(number), strict=True))
    files = {names[name]: measured for name, measured in shard.record.files.items()}
    record = dataclasses.replace(shard.record, files=files, ids=None)
    if record == begun and is_intact(folder, record.files):
        return record
    for name, new in names.items():
        source, target = shard.index.folder / name, folder / new
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            with open(source, "rb") as data, atomic_write(target) as file:
                shutil.copyfileobj(data, file)
    write_record(folder, number, record)
    return record


def _rewrite(shard: _Shard, folder: Path, number: int, plan: BuildPlan, begun: ShardRecord | None) -> ShardRecord:
    lines = LineStore(shard.index.folder / layout.documents_file(shard.number))
    documents = [document_from_json(line) for line, kept in zip(lines, shard.present, strict=True) if kept]
    due = (fingerprint(documents), plan.encoder.weight_hash, plan.vector_format)
    if (
        begun is not None
        and begun.weight_hash  # Vectors without a model may be others than those of the run before.
        and (begun.fingerprint, begun.weight_hash, begun.vector_format) == due
        and is_intact(folder, begun.files)
    ):
        return begun
    return write_shard(
        folder,
        number,
        documents,
        leading_dimensions(shard.index.shard_vectors(shard.number)[shard.present], plan.encoder.dim),
        fingerprint=due[0],
        weight_hash=plan.encoder.weight_hash,
        encode_seconds=shard.record.encode_seconds,
        vector_format=plan.vector_format,
    )


def leading_dimensions(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The first `dim` dimensions of vectors [n, d], with unit vectors normalised again.

    An encoder with `dim` cuts its vectors before it normalises them, which gives the same result.
    """
    if dim == vectors.shape[1]:
        return vectors
    kept = np.ascontiguousarray(vectors[:, :dim])
    unit = np.abs(np.linalg.norm(vectors, axis=1) - 1) < _UNIT_TOLERANCE
    lengths = np.linalg.norm(kept, axis=1)
    lengths[~unit | (lengths == 0)] = 1
    return np.asarray(kept / lengths[:, None], dtype=np.float32)


def _checked_cut(cut: EncoderRecord, source: IndexContents) -> EncoderRecord:
    whole = source.manifest.encoder
    if not 1 <= cut.dim <= whole.dim:
        raise UserError(f"The vectors in {source.folder} have {whole.dim} dimensions and cannot be cut to {cut.dim}.")
    if dataclasses.replace(cut, dim=whole.dim, weight_hash=whole.weight_hash) != whole:
        raise UserError(f"The vectors in {source.folder} were made with {whole.name}: cut them for that model.")
    return cut


def _check_encoders(indexes: Sequence[IndexContents]) -> None:
    first, other = indexes[0], first_unlike(indexes)
    if other is None:
        return
    ours, theirs = first.manifest.encoder, other.manifest.encoder
    raise UserError(
        f"The indexes in {first.folder} and {other.folder} were made with {ours.name} and {theirs.name}, which "
        f"give other vectors ({differing_fields(ours, theirs)} differ): merge indexes of one model."
    )


def _check_ids(indexes: Sequence[IndexContents]) -> None:
    for place, first in enumerate(indexes[:-1]):
        for other in indexes[place + 1 :]:
            taken = TakenIds(first.present_ids, partial(_twice, first.folder, other.folder))
            for ids in _blocks(other.present_ids()):
                taken.refuse(ids)


def _twice(first: Path, second: Path, doc_id: str) -> UserError:
    return UserError(
        f"The document id {doc_id!r} is in {first} and in {second}: delete it from one of them first with `delete()`."
    )


def _blocks(ids: Iterator[str], size: int = 8192) -> Iterator[list[str]]:
    block: list[str] = []
    for doc_id in ids:
        block.append(doc_id)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _plan(indexes: Sequence[IndexContents], vector_format: str | None, cut: EncoderRecord | None) -> BuildPlan:
    """The build plan of the first source, with which the new index can be repaired too."""
    first = indexes[0]
    try:
        plan = decode(BuildPlan, parse((first.folder / layout.PLAN).read_bytes()))
    except (OSError, ValueError):
        plan = BuildPlan(first.manifest.corpus.name, first.manifest.encoder, first.manifest.shard_size)
    return dataclasses.replace(
        plan,
        shard_size=max(index.manifest.shard_size for index in indexes),
        vector_format=check_format(vector_format or first.manifest.vector_format),
        encoder=plan.encoder if cut is None else _checked_cut(cut, first),
    )


def _history(manifests: Sequence[IndexManifest]) -> tuple[CorpusRecord, tuple[Change, ...]]:
    corpus, changes = manifests[0].corpus, manifests[0].changes
    for other in manifests[1:]:
        change = Change("merge", other.document_count, other.corpus.name, other.corpus.fingerprint)
        corpus, changes = corpus.changed(change), (*changes, change)
    return corpus, changes
