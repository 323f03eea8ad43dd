"""Makes the shards of a corpus. Reading, tokenising, encoding and writing run concurrently."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.line_file import LineFile
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.encoders.protocol import PreparingEncoder, TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building import ranges
from ibkd_retrieval.indexing.building.pipeline import WriteBehind, read_ahead
from ibkd_retrieval.indexing.building.plan import BuildPlan, Fingerprint, IdGuard, TakenIds, fingerprinted
from ibkd_retrieval.indexing.building.ranges import Piece
from ibkd_retrieval.indexing.building.workers import EncodedShard, ShardEncoders, UnencodedShard
from ibkd_retrieval.indexing.format.shards import ShardRecord, is_intact, write_shard
from ibkd_retrieval.indexing.format.staging import StagedVectors, Staging, staging_for
from ibkd_retrieval.progress import Progress, Task

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import PreparedTexts


@dataclass(frozen=True)
class ShardStage:
    """Makes the missing and damaged shards of a corpus in a folder.

    A shard depends only on its documents. The number of encoders and the existing shards do not change it.

    Attributes:
        corpus: the corpus, read once from the start.
        encoder: the encoder. It encodes unless `processes` do.
        folder: the index folder.
        plan: the build plan, with the shard size and the vector format.
        begun: records of existing shards, by number. Damaged shards are made again.
        first: number of the first shard.
        taken: ids that the index holds already.
        processes: processes that encode instead of `encoder`.
        depth: maximum number of shards that wait between two stages.
        readers: number of processes that read a file whose shards `processes` read themselves. 0 is this process.
        before_writing: function called before each shard is written.
    """

    corpus: Corpus
    encoder: TextEncoder
    folder: Path
    plan: BuildPlan
    begun: dict[int, ShardRecord]
    progress: Progress
    first: int = 0
    taken: TakenIds | None = None
    processes: ShardEncoders | None = None
    depth: int = 1
    readers: int = 0
    before_writing: Callable[[], None] = lambda: None

    def run(self) -> tuple[list[ShardRecord], str]:
        """Make the shards. Return all records in order, and the fingerprint of the corpus.

        Raises:
            UserError: the corpus changed since the build began or has unfit ids, or a vector is not finite.
            WorkFailed: an encoder process died.
            OSError: the disk is full or fails.
        """
        records = self._intact()
        whole = Fingerprint()
        done = sum(record.documents for record in records.values())
        file = self.corpus.lines if self.processes is not None else None
        if file is not None and file.size < ranges.LEAST_BYTES:
            file = None

        def write(encoded: EncodedShard) -> None:
            shard = encoded.shard
            if shard.number in records:  # It was encoded twice.
                return
            self.before_writing()
            records[shard.number] = write_shard(
                self.folder,
                shard.number,
                shard.documents,
                encoded.vectors,
                fingerprint=shard.fingerprint,
                weight_hash=self.plan.encoder.weight_hash,
                encode_seconds=round(encoded.seconds, 3),
                vector_format=self.plan.vector_format,
                staged=encoded.lines,
            )

        with (
            staging_for(self.folder, self.plan.vector_format, file) as staging,
            self.progress.task("Encoding documents", self.corpus.expected, "documents", done) as task,
            read_ahead(self._unencoded(records.copy(), whole, file), self.depth) as shards,
            WriteBehind(write, self.depth) as writer,
            closing(self._encoded(shards, _Watched(task, writer), staging)) as encoded,
        ):
            for each in encoded:
                self._check(each.vectors, each.shard.documents)
                writer.put(each)
        return [records[number] for number in sorted(records)], whole.hexdigest()

    def _intact(self) -> dict[int, ShardRecord]:
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

    def _unencoded(
        self, kept: dict[int, ShardRecord], whole: Fingerprint, file: LineFile | None
    ) -> Iterator[UnencodedShard]:
        """Read the corpus to its end and yield the shards to encode. Runs concurrently with the encoder."""
        guard = IdGuard(self.corpus.name)
        number, count = self.first, 0
        for documents, own, hashes in self._pieces(whole, file):
            # Checked before the ids, because a changed corpus can repeat ids of earlier shards.
            if number in self.begun and self.begun[number].fingerprint != own:
                raise self._changed(count)
            self._admit(guard, documents, hashes, count)
            if number not in kept:
                yield UnencodedShard(number, documents, own, self._prepared(documents, count))
            count += len(documents)
            number += 1
            del documents
        if self.begun and max(self.begun) >= number:
            raise self._changed(count)

    def _pieces(self, whole: Fingerprint, file: LineFile | None) -> Iterator[Piece]:
        """Read the corpus to its end, and cut it. `whole` receives all documents."""
        if file is not None:
            yield from ranges.cut_ranges(file, self.plan.shard_size, self.plan.shard_text, whole, self.readers)
            return
        for documents in cut(self.corpus.documents(), self.plan.shard_size, self.plan.shard_text):
            part = Fingerprint()
            for data in fingerprinted(documents):
                whole.update(data)
                part.update(data)
            yield Piece(documents, part.hexdigest())
            del documents

    def _admit(
        self, guard: IdGuard, documents: Sequence[Document], hashes: NDArray[np.uint64] | None, count: int
    ) -> None:
        """Refuse unfit and repeated ids."""
        if hashes is not None and guard.are_new(hashes) and (self.taken is None or self.taken.are_new(hashes)):
            guard.remember(hashes)
            return
        ids = [document.doc_id for document in documents]
        guard.admit(ids, partial(_first_ids, self.corpus, count))
        if self.taken is not None:
            self.taken.refuse(ids)

    def _refuse_unreadable(self, documents: Sequence[Document], count: int) -> None:
        """Name a document that cannot be tokenised. The encoder knows only its position in a batch."""
        for position, document in enumerate(documents, start=count + 1):
            if document.text.isascii() and document.title.isascii():
                continue
            try:
                document.content.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(
                    f"Document {position:,} of {self.corpus.name} ({document.doc_id}) holds half of a surrogate pair, "
                    "which is not a character and cannot be encoded: correct its text, or leave it out."
                ) from None

    def _prepared(self, documents: Sequence[Document], count: int) -> PreparedTexts | None:
        if self.processes is not None and not isinstance(documents, ranges.FileDocuments):
            self._refuse_unreadable(documents, count)
        if self.processes is not None or not isinstance(self.encoder, PreparingEncoder):
            return None
        try:
            return self.encoder.prepare([document.content for document in documents], "document")
        except UserError:
            self._refuse_unreadable(documents, count)
            raise

    def _encoded(
        self, shards: Iterator[UnencodedShard], task: Task, staging: Staging
    ) -> Generator[EncodedShard, None, None]:
        if self.processes is not None:
            yield from self.processes.encode(shards, task, staging)
            return
        for shard in shards:
            start = time.perf_counter()
            if shard.prepared is not None and isinstance(self.encoder, PreparingEncoder):
                vectors = self.encoder.encode_prepared(shard.prepared, task)
            else:
                vectors = self.encoder.encode([document.content for document in shard.documents], "document", task)
            encoded = EncodedShard(shard.without_tokens(), vectors, time.perf_counter() - start)
            del shard, vectors
            yield encoded

    def _check(self, vectors: NDArray[np.float32] | StagedVectors, documents: Sequence[Document]) -> None:
        due = (len(documents), self.encoder.dim)
        if vectors.shape != due:
            raise UserError(
                f"The model {self.encoder.name} gave vectors of shape {vectors.shape} where {due} was due: "
                "its configuration and its weights do not agree."
            )
        if isinstance(vectors, StagedVectors):  # They are finite.
            return
        unfit = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(unfit):
            raise UserError(
                f"The model {self.encoder.name} gave a vector that is not finite (NaN or infinity) for the document "
                f"{documents[unfit[0]].doc_id!r}: try `dtype='float32'`, or another model."
            )

    def _changed(self, count: int) -> UserError:
        what, mend = "index in", "index it anew with `overwrite`"
        if self.first:
            what, mend = "append to", "drop that append with `append(overwrite=True)`"
        return UserError(
            f"The corpus {self.corpus.name} is not the one that the {what} {self.folder} was begun with (it differs "
            f"from document {count + 1:,} on, or soon after): {mend}."
        )


class _Watched:
    """A task that stops encoding as soon as writing fails."""

    def __init__(self, task: Task, writer: WriteBehind[EncodedShard]) -> None:
        self._task = task
        self._writer = writer

    def advance(self, count: int = 1, note: str = "") -> None:
        self._writer.check()
        self._task.advance(count, note)


def cut(documents: Iterator[Document], most: int, text: int | None) -> Iterator[list[Document]]:
    """Split a stream into shards of at most `most` documents, closed early at `text` characters."""
    shard: list[Document] = []
    characters = 0
    for document in documents:
        shard.append(document)
        characters += len(document.text) + len(document.title)
        if len(shard) == most or (text is not None and characters >= text):
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def _first_ids(corpus: Corpus, count: int) -> Iterator[str]:
    # The corpus is read again, because shards may not be written yet. Only a repeated id leads here.
    return (document.doc_id for document in islice(corpus.documents(), count))
