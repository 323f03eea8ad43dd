"""Loads the model that encodes a corpus, for the given processes and memory."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ibkd_retrieval.cluster import check_sizes
from ibkd_retrieval.encoders.device import choose_device, give_freed_memory_back
from ibkd_retrieval.encoders.endpoints.address import Address, is_endpoint
from ibkd_retrieval.encoders.prompts import word_on_prompts
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.encoders.threads import thread_count
from ibkd_retrieval.encoders.tokens import default_batch_tokens
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import MemoryPlan, least_shard_size, parse_size, plan_memory
from ibkd_retrieval.indexing.building.workers import EncoderProcesses, LoadEncoder, ShardEncoders, available_threads
from ibkd_retrieval.indexing.config import PROMPTS

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.indexing.config import EncodingConfig
    from ibkd_retrieval.progress import Progress

# Number of documents from which trying the backends is worth its time.
_LARGE = 20_000

_LOADING = ("device", "pooling", "max_length", "dim", *PROMPTS)


class Encoding(NamedTuple):
    """The encoder of a corpus, with its memory plan and processes.

    Attributes:
        encoder: the encoder. It encodes unless `processes` do.
        memory: sizes that keep the work within its memory budget.
        processes: processes that encode instead of `encoder`. None is this process.
    """

    encoder: TextEncoder
    memory: MemoryPlan
    processes: ShardEncoders | None


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
    _check_workers(config)
    if config.shard_size is not None and config.shard_size < 1:
        raise UserError(
            f"A shard must hold at least one document, not {config.shard_size}: give a larger `shard_size`."
        )
    limit = None if config.memory is None else parse_size(config.memory)
    _agree_to_endpoint(model, config, corpus, progress)
    encoder: Any = _loaded(model, config, corpus, progress) if isinstance(model, str) else model
    wanted = config.batch_tokens
    if wanted is None and isinstance(model, str):
        wanted = default_batch_tokens(choose_device(config.device))
    wanted = wanted or getattr(encoder, "batch_tokens", None) or default_batch_tokens(encoder.device)
    if hasattr(encoder, "keep_paid"):
        encoder.keep_paid()
    sizes = _sizes(encoder, config, corpus.expected, limit, wanted)
    least = least_shard_size(corpus.expected or 0)
    if sizes.shard_size < least:
        progress.say(
            f"Shards of {sizes.shard_size:,} documents are so many that searches may find no room to map them: give a "
            f"`shard_size` of {least:,}, and the `memory` for that."
        )
    if config.batch_tokens is None and isinstance(model, str):
        encoder.batch_tokens = sizes.batch_tokens
    return Encoding(encoder, sizes, _encoders(model, encoder, config, sizes.batch_tokens, progress))


def encoders_outside(encoder: TextEncoder, config: EncodingConfig, progress: Progress) -> ShardEncoders | None:
    """The processes that encode a corpus in place of an encoder, as a configuration says. None where none do.

    Raises:
        UserError: it asks for processes that cannot be, or there is no such cluster.
    """
    _check_workers(config)
    _refuse_endpoint(encoder.name, config)
    return _encoders(encoder, encoder, config, default_batch_tokens(encoder.device), progress)


def _check_workers(config: EncodingConfig) -> None:
    check_sizes(config.workers, config.worker_cpus)
    if config.cluster is None and config.worker_cpus is not None:
        raise UserError("`worker_cpus` is for encoders on a cluster: give `cluster` too, or `workers` alone.")


def _encoders(
    model: str | TextEncoder, encoder: Any, config: EncodingConfig, batch_tokens: int, progress: Progress
) -> ShardEncoders | None:
    """The encoders outside this process. None where this process encodes."""
    if config.cluster is None and (config.workers or 1) == 1:
        return None
    load = _loader(model, encoder, config, batch_tokens)
    if config.cluster is None:
        return EncoderProcesses(config.workers or 1, load)
    from ibkd_retrieval.cluster import Cluster, connected
    from ibkd_retrieval.indexing.building.cluster import ClusterEncoders

    with connected(config.cluster):
        pass  # An address without a cluster is refused before a folder is made.

    # The processes of a cluster start in a folder of their own.
    name = str(Path(load.name).resolve()) if Path(load.name).is_dir() else load.name
    load, gpus = dataclasses.replace(load, name=name), int(encoder.device.startswith("cuda"))
    cluster = Cluster(config.cluster, config.workers, config.worker_cpus or 1, gpus)
    return ClusterEncoders(cluster, load, encoder.weight_hash, progress)


def _loaded(model: str, config: EncodingConfig, corpus: Corpus, progress: Progress) -> Any:
    """Load a model with the backend and the format that suit the corpus."""
    from ibkd_retrieval.encoders.autotune.load import load_encoder

    encoder = load_encoder(
        model,
        config.backend,
        config.dtype,
        lambda: _sample(corpus),
        purpose="documents",
        measure=lambda: _is_large(corpus),
        progress=progress,
        batch_tokens=config.batch_tokens or default_batch_tokens(choose_device(config.device)),
        endpoint=config.endpoint,
        **{name: getattr(config, name) for name in _LOADING},
    )
    asked = config.query_prompt is None and config.document_prompt is None and encoder.max_length
    word = word_on_prompts(model, encoder.prompts.values(), known=False) if asked else None
    if word is not None:
        progress.say(word)
    return encoder


def _agree_to_endpoint(model: str | TextEncoder, config: EncodingConfig, corpus: Corpus, progress: Progress) -> None:
    """Have the cost of an endpoint agreed to before anything is sent. Another model costs nothing.

    Raises:
        UserError: it is not agreed to, or several processes are asked for.
    """
    name = model if isinstance(model, str) else model.name
    if not is_endpoint(name):
        return
    _refuse_endpoint(name, config)
    from ibkd_retrieval.encoders.endpoints.cost import agree, estimate

    prompts = {"query": config.query_prompt or "", "document": config.document_prompt or ""}
    prompts = prompts if isinstance(model, str) else dict(model.prompts)
    address = Address.parse(name)
    texts = (document.content for document in corpus.documents())
    agree(address, estimate(address, texts, prompts=prompts), config.endpoint, progress)


def _refuse_endpoint(name: str, config: EncodingConfig) -> None:
    if is_endpoint(name) and ((config.workers or 1) > 1 or config.cluster is not None):
        raise UserError(
            "`workers` and `cluster` are for a model that runs here: an endpoint answers several requests at once."
        )


def _loader(model: str | TextEncoder, encoder: Any, config: EncodingConfig, batch_tokens: int) -> LoadEncoder:
    """How each process loads what this one has settled on."""
    settings = {name: getattr(config, name) for name in _LOADING}
    if not isinstance(model, str):
        settings |= {name: getattr(encoder, name) for name in ("device", "pooling", "dim")}
        settings["max_length"] = encoder.max_length or None
    return LoadEncoder(
        encoder.name,
        **settings,
        dtype=encoder.dtype,
        batch_tokens=getattr(encoder, "batch_tokens", batch_tokens),
        backend=getattr(encoder, "backend", "torch"),
    )


def _sample(corpus: Corpus) -> Any:
    from ibkd_retrieval.encoders.autotune.choice import sample_texts

    return sample_texts(document.content for document in corpus.documents())


def _sizes(
    encoder: Any, config: EncodingConfig, documents: int | None, limit: int | None, batch_tokens: int
) -> MemoryPlan:
    """The sizes that fit into the memory. A `batch_tokens` that the user gave must fit.

    Raises:
        UserError: it does not suffice.
    """
    at_once = getattr(encoder, "batches_at_once", 1)
    # Encoders on a cluster have the memory of their nodes.
    workers = 1 if config.cluster is not None else config.workers or 1
    if at_once > 1 and workers > 1:
        at_once = thread_count(max(1, available_threads() // workers))
    # Up to seven encoders were tried. Encoding does not need their memory.
    give_freed_memory_back()
    sizes = plan_memory(
        limit,
        dim=encoder.dim,
        width=getattr(encoder, "width", None),
        batch_tokens=batch_tokens,
        shard_size=config.shard_size,
        workers=workers,
        batches=workers * at_once,
        documents=documents,
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
