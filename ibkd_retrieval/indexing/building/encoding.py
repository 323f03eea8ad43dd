"""Loads the model that encodes a corpus, for the given processes and memory."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import MemoryPlan, parse_size
from ibkd_retrieval.indexing.config import PROMPTS

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.indexing.building.workers import EncoderProcesses
    from ibkd_retrieval.indexing.config import EncodingConfig
    from ibkd_retrieval.progress import Progress

# Documents from which on encoding takes so much longer than trying the backends that trying them is worth it.
_LARGE = 20_000


class Encoding(NamedTuple):
    """The encoder of a corpus, with its memory plan and processes.

    Attributes:
        encoder: the encoder. It encodes unless `processes` do.
        memory: sizes that keep the work within its memory budget.
        processes: processes that encode instead of `encoder`. None is this process.
    """

    encoder: TextEncoder
    memory: MemoryPlan
    processes: EncoderProcesses | None


def prepare_encoding(model: str | TextEncoder, config: EncodingConfig, corpus: Corpus, progress: Progress) -> Encoding:
    """Load a model, and plan the sizes and processes of encoding `corpus` with it.

    Args:
        model: a folder or hub name, or an encoder that is loaded already.
        config: the encoding options.
        corpus: the corpus to encode.
        progress: receives the measurements and choices.

    Raises:
        UserError: there is no such model, it cannot honour an option, or the memory does not suffice.
    """
    from ibkd_retrieval.encoders.autotune.choice import sample_texts
    from ibkd_retrieval.encoders.autotune.load import load_encoder
    from ibkd_retrieval.encoders.device import choose_device
    from ibkd_retrieval.encoders.tokens import default_batch_tokens
    from ibkd_retrieval.encoders.weights import word_on_prompts
    from ibkd_retrieval.indexing.building.workers import EncoderProcesses, LoadEncoder

    if config.workers < 1:
        raise UserError(f"`workers` is {config.workers}: give at least 1.")
    if config.shard_size is not None and config.shard_size < 1:
        raise UserError(
            f"A shard must hold at least one document, not {config.shard_size}: give a larger `shard_size`."
        )
    limit = None if config.memory is None else parse_size(config.memory)
    encoder: Any
    settings = {name: getattr(config, name) for name in ("device", "pooling", "max_length", "dim", *PROMPTS)}
    if isinstance(model, str):
        wanted = config.batch_tokens
        if wanted is None:
            wanted = default_batch_tokens(choose_device(config.device))
        encoder = load_encoder(
            model,
            config.backend,
            config.dtype,
            lambda: sample_texts(document.content for document in corpus.documents()),
            purpose="documents",
            measure=lambda: _is_large(corpus),
            progress=progress,
            batch_tokens=wanted,
            **settings,
        )
        asked = config.query_prompt is None and config.document_prompt is None and encoder.max_length
        word = word_on_prompts(model, encoder.prompts.values(), known=False) if asked else None
        if word is not None:
            progress.say(word)
    else:
        encoder = model
        settings |= {name: getattr(encoder, name) for name in ("device", "pooling")}
        settings |= {"max_length": encoder.max_length or None, "dim": encoder.dim}
        wanted = config.batch_tokens or getattr(encoder, "batch_tokens", None) or default_batch_tokens(encoder.device)
    sizes = _sizes(encoder, config, limit, wanted)
    if config.batch_tokens is None and isinstance(model, str):
        encoder.batch_tokens = sizes.batch_tokens
    processes = None
    if config.workers > 1:
        # Each process loads what was settled on here; what int8 needs, this process has made.
        sample = tuple(sample_texts(document.content for document in corpus.documents()))
        load = LoadEncoder(
            encoder.name,
            **settings,
            dtype=encoder.dtype,
            batch_tokens=getattr(encoder, "batch_tokens", sizes.batch_tokens),
            backend=getattr(encoder, "backend", "torch"),
            sample=sample if encoder.dtype == "int8" else (),
        )
        processes = EncoderProcesses(config.workers, load)
    return Encoding(encoder, sizes, processes)


def _sizes(encoder: Any, config: EncodingConfig, limit: int | None, batch_tokens: int) -> MemoryPlan:
    """What fits into the memory, which `batch_tokens` has to where the user gave them.

    Raises:
        UserError: it does not suffice.
    """
    from ibkd_retrieval.encoders.device import give_freed_memory_back
    from ibkd_retrieval.encoders.threads import thread_count
    from ibkd_retrieval.indexing.building.memory import plan_memory
    from ibkd_retrieval.indexing.building.workers import available_threads

    at_once = getattr(encoder, "batches_at_once", 1)
    if at_once > 1 and config.workers > 1:
        at_once = thread_count(max(1, available_threads() // config.workers))
    # Up to seven encoders were tried, whose memory is no part of what encoding takes.
    give_freed_memory_back()
    sizes = plan_memory(
        limit,
        dim=encoder.dim,
        width=getattr(encoder, "width", None),
        batch_tokens=batch_tokens,
        shard_size=config.shard_size,
        workers=config.workers,
        batches=config.workers * at_once,
    )
    # A GPU computes in memory of its own.
    if config.batch_tokens is not None and sizes.batch_tokens < config.batch_tokens and encoder.device == "cpu":
        raise UserError(
            f"`batch_tokens={config.batch_tokens}` is more than {sizes.limit / 1e6:,.0f}MB have room for beside the "
            f"model and the shards: give `batch_tokens={sizes.batch_tokens}`, or more `memory`."
        )
    return sizes


def _is_large(corpus: Corpus) -> bool:
    if corpus.count is not None:
        return corpus.count >= _LARGE
    return next(islice(corpus.documents(), _LARGE - 1, None), None) is not None
