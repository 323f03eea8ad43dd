"""How a corpus is encoded: the model, the processes that run it and the memory they take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.building.memory import MemoryPlan
    from ibkd_retrieval.indexing.building.workers import EncoderProcesses
    from ibkd_retrieval.indexing.format.manifest import EncoderRecord
    from ibkd_retrieval.progress import Progress

# Documents from which on encoding takes so much longer than trying the backends that trying them is worth it.
_LARGE = 20_000


@dataclass(frozen=True)
class EncodingConfig:
    """How a corpus is encoded."""

    model: str | None
    device: str
    dtype: str
    backend: str
    pooling: str | None
    max_length: int | None
    dim: int | None
    batch_tokens: int | None
    workers: int
    memory: str | None
    shard_size: int | None

    def given(self) -> dict[str, object]:
        """What the user gave, by option; None where it was left out."""
        from ibkd_retrieval.errors import option_named

        defaults = {"device": "auto", "dtype": "auto", "backend": "auto", "workers": 1}
        values = dataclasses.asdict(self)
        return {option_named(name): None if value == defaults.get(name) else value for name, value in values.items()}

    def with_model(self) -> EncodingConfig:
        """The same with the model that is meant where none was named: the newest student.

        Raises:
            UserError: there is none.
        """
        from ibkd_retrieval.encoders.autotune.load import newest_student

        return self if self.model is not None else dataclasses.replace(self, model=str(newest_student()))

    def like(self, encoder: EncoderRecord) -> EncodingConfig:
        """The same with the settings of the encoder of an index where none were given."""
        return dataclasses.replace(
            self,
            model=self.model or encoder.name,
            dtype=encoder.dtype if self.dtype == "auto" else self.dtype,
            backend=encoder.backend if self.backend == "auto" else self.backend,
            pooling=self.pooling or encoder.pooling,
            max_length=self.max_length or encoder.max_length or None,
            dim=self.dim or encoder.dim,
        )

    def computing_as(self, encoder: EncoderRecord | None) -> EncodingConfig:
        """The same, computing as a build that was begun does where nothing else was asked for."""
        if encoder is None or (self.backend, self.dtype) != ("auto", "auto"):
            return self
        return dataclasses.replace(self, backend=encoder.backend, dtype=encoder.dtype)

    def load(self, corpus: Corpus, progress: Progress) -> tuple[Encoder, MemoryPlan, EncoderProcesses | None]:
        """Load the model, and plan the sizes and processes of encoding `corpus`.

        Raises:
            UserError: no such model, or an option it cannot honour; the memory does not suffice.
        """
        from ibkd_retrieval.encoders.autotune.choice import sample_texts
        from ibkd_retrieval.encoders.autotune.load import load_encoder
        from ibkd_retrieval.encoders.batching import default_batch_tokens
        from ibkd_retrieval.encoders.device import choose_device
        from ibkd_retrieval.errors import UserError
        from ibkd_retrieval.indexing.building.memory import parse_size
        from ibkd_retrieval.indexing.building.workers import EncoderProcesses, LoadEncoder

        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}: give at least 1.")
        if self.shard_size is not None and self.shard_size < 1:
            raise UserError(f"A shard must hold at least one document, not {self.shard_size}.")
        limit = None if self.memory is None else parse_size(self.memory)
        settings = {name: getattr(self, name) for name in ("device", "pooling", "max_length", "dim")}
        name = self.model or ""
        wanted = self.batch_tokens
        if wanted is None:
            wanted = default_batch_tokens(choose_device(self.device))
        encoder = load_encoder(
            name,
            self.backend,
            self.dtype,
            lambda: sample_texts(document.content for document in corpus.documents()),
            purpose="documents",
            measure=lambda: _is_large(corpus),
            progress=progress,
            batch_tokens=wanted,
            **settings,
        )
        sizes = self._sizes(encoder, limit, wanted)
        if self.batch_tokens is None:
            encoder.batch_tokens = sizes.batch_tokens
        processes = None
        if self.workers > 1:
            # Each process loads what was settled on here; what int8 needs, this process has made.
            sample = tuple(sample_texts(document.content for document in corpus.documents()))
            load = LoadEncoder(
                name,
                **settings,
                dtype=encoder.dtype,
                batch_tokens=encoder.batch_tokens,
                backend=encoder.backend,
                sample=sample if encoder.dtype == "int8" else (),
            )
            processes = EncoderProcesses(self.workers, load)
        return encoder, sizes, processes

    def _sizes(self, encoder: Encoder, limit: int | None, batch_tokens: int) -> MemoryPlan:
        """What fits into the memory, which `batch_tokens` has to where the user gave them.

        Raises:
            UserError: it does not suffice.
        """
        from ibkd_retrieval.encoders.device import give_freed_memory_back
        from ibkd_retrieval.encoders.threads import lane_count
        from ibkd_retrieval.errors import UserError
        from ibkd_retrieval.indexing.building.memory import plan_memory
        from ibkd_retrieval.indexing.building.workers import available_threads

        lanes = encoder.batches_at_once
        if lanes > 1 and self.workers > 1:
            lanes = lane_count(max(1, available_threads() // self.workers))
        # Up to seven encoders were tried, whose memory is no part of what encoding takes.
        give_freed_memory_back()
        sizes = plan_memory(
            limit,
            dim=encoder.dim,
            width=encoder.width,
            batch_tokens=batch_tokens,
            shard_size=self.shard_size,
            workers=self.workers,
            batches=self.workers * lanes,
        )
        # A GPU computes in memory of its own.
        if self.batch_tokens is not None and sizes.batch_tokens < self.batch_tokens and encoder.device == "cpu":
            raise UserError(
                f"--batch-tokens {self.batch_tokens} is more than {sizes.limit / 1e6:,.0f}MB have room for beside the "
                f"model and the shards: give --batch-tokens {sizes.batch_tokens}, or more --memory."
            )
        return sizes


def _is_large(corpus: Corpus) -> bool:
    if corpus.count is not None:
        return corpus.count >= _LARGE
    return next(islice(corpus.documents(), _LARGE - 1, None), None) is not None
