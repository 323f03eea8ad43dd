"""What decides how `ibkd index` encodes: the model, the processes it runs in and the memory they take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import MODELS

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.manifest import EncoderRecord
    from ibkd_retrieval.indexing.memory import MemoryPlan
    from ibkd_retrieval.indexing.workers import EncoderProcesses


@dataclass(frozen=True)
class EncodingOptions:
    """The options of the command that bear on encoding, as they were given."""

    model: str | None
    device: str
    dtype: str
    pooling: str | None
    max_length: int | None
    dim: int | None
    batch_tokens: int | None
    workers: int
    memory: str | None
    shard_size: int | None

    def given(self) -> dict[str, object]:
        """What the user gave, by option; None where it was left out."""
        defaults = {"device": "auto", "dtype": "auto", "workers": 1}
        values = dataclasses.asdict(self)
        return {
            f"--{name.replace('_', '-')}": None if value == defaults.get(name) else value
            for name, value in values.items()
        }

    def with_model(self) -> EncodingOptions:
        """The same with the model that is meant where none was named: the newest student.

        Raises:
            UserError: there is none.
        """
        from ibkd_retrieval.distill.model_folder import newest_student

        return self if self.model is not None else dataclasses.replace(self, model=str(newest_student(MODELS)))

    def like(self, encoder: EncoderRecord) -> EncodingOptions:
        """The same with the settings of the encoder of an index where none were given."""
        return dataclasses.replace(
            self,
            model=self.model or encoder.name,
            dtype=encoder.dtype if self.dtype == "auto" else self.dtype,
            pooling=self.pooling or encoder.pooling,
            max_length=self.max_length or encoder.max_length or None,
            dim=self.dim or encoder.dim,
        )

    def load(self) -> tuple[Encoder, MemoryPlan, EncoderProcesses | None]:
        """Load the model, and plan the sizes and processes of encoding.

        Raises:
            UserError: no such model, or an option it cannot honour; the memory does not suffice.
        """
        from ibkd_retrieval.encoders.encoder import DEFAULT_BATCH_TOKENS, Encoder
        from ibkd_retrieval.errors import UserError
        from ibkd_retrieval.indexing.memory import parse_size, plan_memory
        from ibkd_retrieval.indexing.workers import EncoderProcesses, LoadEncoder

        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}: give at least 1.")
        if self.shard_size is not None and self.shard_size < 1:
            raise UserError(f"A shard must hold at least one document, not {self.shard_size}.")
        limit = None if self.memory is None else parse_size(self.memory)
        settings = {name: getattr(self, name) for name in ("device", "dtype", "pooling", "max_length", "dim")}
        name = self.model or ""
        wanted = DEFAULT_BATCH_TOKENS if self.batch_tokens is None else self.batch_tokens
        encoder = Encoder.load(name, **settings, batch_tokens=wanted)
        sizes = plan_memory(
            limit, dim=encoder.dim, batch_tokens=wanted, shard_size=self.shard_size, workers=self.workers
        )
        if self.batch_tokens is None:
            encoder.batch_tokens = sizes.batch_tokens
        processes = None
        if self.workers > 1:
            processes = EncoderProcesses(self.workers, LoadEncoder(name, **settings, batch_tokens=encoder.batch_tokens))
        return encoder, sizes, processes
