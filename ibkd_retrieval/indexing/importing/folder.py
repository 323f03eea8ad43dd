"""Imports vectors into an index folder, and checks them before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.build import build_index, refuse_changed
from ibkd_retrieval.indexing.building.plan import BuildPlan, IdGuard, claim, fingerprint
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Family, family_named
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.lines import LineStore
from ibkd_retrieval.indexing.format.manifest import UNNAMED_MODEL, EncoderRecord, IndexManifest, write_manifest
from ibkd_retrieval.indexing.format.shards import ShardRecord, document_from_json, is_intact, read_records, write_shard
from ibkd_retrieval.indexing.format.vectors import check_format, pack
from ibkd_retrieval.indexing.format.writing import new_index
from ibkd_retrieval.indexing.importing import (
    BLOCK_ROWS,
    UNIT_TOLERANCE,
    ForeignVectors,
    VectorBlock,
    VectorsDigest,
    checked_lengths,
)
from ibkd_retrieval.indexing.importing.documents import TextsById, texts_by_id
from ibkd_retrieval.progress import SILENT, Progress

_COMPARED_TEXTS = 8
_LEAST_COSINE = 0.9


def import_vectors(
    source: ForeignVectors,
    folder: Path | str,
    *,
    encoder: TextEncoder | None = None,
    corpus: Corpus | None = None,
    family: str | Family = "flat",
    normalise: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    shard_size: int = 8192,
    vector_format: str = "float32",
    device: str = "cpu",
    parts: int | None = None,
    progress: Progress = SILENT,
) -> IndexManifest:
    """Make an index folder of vectors that were encoded elsewhere, as `build_index` makes one of texts.

    All vectors and ids of `source` are read and checked before anything is written, and then read again shard by
    shard. Texts come from `corpus` by id, or from the source if it has them. Otherwise they are empty. The corpus may
    hold more documents than there are vectors, in any order. `api.import_vectors` and `build.build_index` describe the
    arguments.

    Raises:
        UserError: a vector is not finite, is zero and cannot be scaled, is not of length 1 where the encoder's are, or
            has another dimension than they; an id is unfit, repeated or not in the corpus; the folder is taken, or
            holds another import.
        OSError: the disk is full or fails.
    """
    folder = Path(folder)
    family = family_named(family) if isinstance(family, str) else family
    load_faiss()
    check_format(vector_format)
    with new_index(folder, resume, overwrite, progress) as folder:
        with texts_by_id(corpus, folder, progress) if corpus else nullcontext() as texts:
            reading, digest = _Reading(source, texts, normalise), VectorsDigest()
            dim = _check(reading, encoder, digest, progress)
            unnamed = EncoderRecord(UNNAMED_MODEL, "", dim, 0, {}, None, "float32", vectors=digest.hexdigest())
            record = EncoderRecord.of(encoder) if encoder else unnamed
            name = corpus.name if corpus else source.name
            due = BuildPlan(name, record, shard_size, vector_format=vector_format)
            plan = claim(folder, due, resume, overwrite, progress)
            refuse_changed(folder)
            shards = _write_shards(reading, folder, plan, progress)
        manifest = build_index(
            Corpus(name, sum(shards), lambda: _stored_documents(folder, len(shards))),
            cast(TextEncoder, _Imported(record)),
            folder,
            family=family,
            resume=True,
            shard_size=plan.shard_size,
            vector_format=plan.vector_format,
            device=device,
            parts=parts,
            progress=progress,
        )
        # Nothing was encoded, so there is no encoding speed.
        manifest = dataclasses.replace(manifest, build=dataclasses.replace(manifest.build, documents_per_second=0.0))
        write_manifest(folder, manifest)
        return manifest


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The source with its texts, scaled if the user wants it."""

    source: ForeignVectors
    texts: TextsById | None
    normalise: bool

    def blocks(self, size: int, digest: VectorsDigest | None = None) -> Iterator[VectorBlock]:
        """Blocks of `size`. `digest` takes the vectors in before they are scaled."""
        position = 0
        for documents, vectors in self.source.blocks_of(size):
            if digest is not None:
                digest.update(vectors)
            if self.texts is not None:
                documents = self.texts.documents(document.doc_id for document in documents)
            if self.normalise:
                vectors = self._scaled(vectors, position)
            yield VectorBlock(documents, vectors)
            position += len(documents)

    def _scaled(self, vectors: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        # In float64, because the square of a float32 can overflow or underflow.
        wide = vectors.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        if not lengths.all():
            zero = position + int(np.argmin(lengths[:, 0])) + 1
            raise UserError(f"Vector {zero:,} in {self.source.path} is all zeros and cannot be scaled: remove it.")
        return np.asarray(wide / lengths, dtype=np.float32)


def _check(reading: _Reading, encoder: TextEncoder | None, digest: VectorsDigest, progress: Progress) -> int:
    """Read everything once into `digest`, refuse unusable vectors and ids, and return the dimension."""
    path = reading.source.path
    unit = encoder is not None and _gives_unit_vectors(encoder)
    guard = IdGuard(str(path))
    count, dim, shortest, longest = 0, encoder.dim if encoder else 0, np.inf, 0.0
    with progress.task("Checking vectors", reading.source.count, "vectors") as task:
        for documents, vectors in reading.blocks(BLOCK_ROWS, digest):
            dim = dim or vectors.shape[1]
            if vectors.shape[1] != dim:
                due = f"{encoder.name} makes {dim}" if encoder else f"the first has {dim}"
                raise UserError(
                    f"{path} holds a vector of {vectors.shape[1]} dimensions and {due}: give vectors of one model, and "
                    "that one with `model`."
                )
            lengths = checked_lengths(vectors, path, count, encoder.name if encoder is not None and unit else None)
            guard.admit([document.doc_id for document in documents], partial(_first_ids, reading.source, count))
            if encoder is not None and not count:
                _compare_texts(documents, vectors, encoder, progress)
            shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
            count += len(documents)
            task.advance(len(documents))
    if not count:
        raise UserError(f"{path} holds no vectors: there is nothing to import.")
    if encoder is None and (shortest < 1 - UNIT_TOLERANCE or longest > 1 + UNIT_TOLERANCE):
        progress.say(
            f"The vectors have lengths from {shortest:.4g} to {longest:.4g}, and the search ranks by inner product: "
            "where cosine is meant, give `normalise`."
        )
    elif encoder is None:
        progress.say("The vectors have length 1: the search ranks by cosine.")
    return dim


def _gives_unit_vectors(encoder: TextEncoder) -> bool:
    length = float(np.linalg.norm(encoder.encode(["How long is the vector of a text?"], "document")))
    return abs(length - 1) <= UNIT_TOLERANCE


def _compare_texts(
    documents: Sequence[Document], vectors: NDArray[np.float32], encoder: TextEncoder, progress: Progress
) -> None:
    """Warn if the model's vectors of the first texts differ much from the imported ones."""
    rows = [row for row, document in enumerate(documents) if document.content.strip()][:_COMPARED_TEXTS]
    if not rows:
        return
    own = encoder.encode([documents[row].content for row in rows], "document")
    given = vectors[rows]
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(given, axis=1)
    cosine = float(np.median(np.sum(own * given, axis=1) / np.maximum(lengths, 1e-12)))
    if cosine < _LEAST_COSINE:
        progress.say(
            f"{encoder.name} gives other vectors for the first texts than those imported (median cosine {cosine:.2f}): "
            "check that ids, texts and model belong to these vectors."
        )


def _first_ids(source: ForeignVectors, count: int) -> Iterator[str]:
    return islice((document.doc_id for block in source.blocks() for document in block.documents), count)


def _write_shards(reading: _Reading, folder: Path, plan: BuildPlan, progress: Progress) -> list[int]:
    """Write missing and damaged shards. Return the number of vectors of each shard."""
    begun = read_records(folder)
    counts: list[int] = []
    with progress.task("Writing shards", reading.source.count, "vectors") as task:
        for number, (documents, vectors) in enumerate(reading.blocks(plan.shard_size)):
            due = fingerprint(documents)
            if not _is_done(folder, number, begun.get(number), due, pack(vectors, plan.vector_format)):
                (folder / layout.MANIFEST).unlink(missing_ok=True)
                write_shard(
                    folder,
                    number,
                    documents,
                    vectors,
                    fingerprint=due,
                    weight_hash=plan.encoder.weight_hash,
                    encode_seconds=0.0,
                    vector_format=plan.vector_format,
                )
            counts.append(len(documents))
            task.advance(len(documents))
    if begun and max(begun) >= len(counts):
        raise UserError(f"{folder} was begun with more vectors than {reading.source.path} holds: use `overwrite`.")
    return counts


def _is_done(folder: Path, number: int, record: ShardRecord | None, fingerprint: str, packed: NDArray[Any]) -> bool:
    if record is None or record.fingerprint != fingerprint or not is_intact(folder, record.files):
        return False
    stored = np.load(folder / layout.vectors_file(number), mmap_mode="r", allow_pickle=False)
    return np.array_equal(stored, packed)


def _stored_documents(folder: Path, shards: int) -> Iterator[Document]:
    for number in range(shards):
        yield from map(document_from_json, LineStore(folder / layout.documents_file(number)))


class _Imported:
    """An encoder for `build_index` that encodes nothing, because every shard is finished."""

    device = "cpu"

    def __init__(self, record: EncoderRecord) -> None:
        self._record = record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._record, name)

    def encode(self, texts: Sequence[str], *_: object) -> NDArray[np.float32]:
        raise WorkFailed("A shard was damaged while it was imported: run the same command with `resume`.")
