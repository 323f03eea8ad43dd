"""`ibkd serve`: indexes behind HTTP, with a page that shows their answers side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibkd_retrieval.search.open import index_folder, open_ranker
from ibkd_retrieval.search.options import RankerOptions

from ..display.console import reporter
from ..options.common import (
    Backend,
    Device,
    EfSearch,
    EncoderDtype,
    Engine,
    Filter,
    Hybrid,
    Model,
    Nprobe,
    Pooling,
    QueryModel,
    Quiet,
    Recall,
    Refine,
    Rerank,
    RerankDepth,
    RerankMaxLength,
    Tune,
    Weight,
)
from ..options.ranking import ranking_options

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.serving.answering import ServedIndex


def serve(
    index: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="INDEX",
            help="Index folder; repeat to compare, the others with the first.",
            show_default="the newest in indexes/",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every machine that reaches this one.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    max_k: Annotated[int, typer.Option(help="Most results a query.")] = 100,
    max_query: Annotated[int, typer.Option(help="Most characters of a query.")] = 1000,
    max_batch: Annotated[int, typer.Option(help="Most queries encoded and searched together.")] = 32,
    max_waiting: Annotated[int, typer.Option(help="Most queries that wait; further ones are turned away (429).")] = 128,
    timeout: Annotated[float, typer.Option(help="Most seconds for a query, waiting included.")] = 10.0,
    remember: Annotated[
        int, typer.Option(min=0, help="Queries whose vectors are kept, a few kB each, for who asks again; 0 for none.")
    ] = 1024,
    engine: Engine = "dense",
    hybrid: Hybrid = None,
    weights: Weight = None,
    tune: Tune = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = 100,
    rerank_max_length: RerankMaxLength = None,
    filters: Filter = None,
    nprobe: Nprobe = None,
    refine: Refine = None,
    ef_search: EfSearch = None,
    recall: Recall = None,
    model: Model = None,
    query_model: QueryModel = None,
    pooling: Pooling = None,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve indexes: a page with their answers side by side, and a JSON API (/search, /healthz, /metrics, /docs)."""
    arguments = locals() | {"exclude_self": False}  # First: the arguments are all the names there are.
    options = ranking_options(arguments)
    from ibkd_retrieval.serving.limits import Limits

    limits = Limits(query=max_query, k=max_k, batch=max_batch, waiting=max_waiting, seconds=timeout)
    run, is_loopback = _server()
    progress = reporter(quiet)
    from ibkd_retrieval.indexing.gpu import device_there

    options = dataclasses.replace(options, device=device_there(device, progress))
    folders = index or [index_folder(None, progress)]
    indexes = _open(folders, options, remember, progress)
    if not is_loopback(host):
        progress.say(
            f"{host} is no loopback address: whoever reaches this machine may search these indexes and read their "
            "documents, unencrypted and without a password."
        )
    run(indexes, limits, host, port, lambda url: print(f"{url} (Ctrl-C ends)", flush=True))  # noqa: T201


def _server() -> tuple[Callable[..., None], Callable[[str], bool]]:
    from ibkd_retrieval.errors import MissingPackage

    try:
        from ibkd_retrieval.serving.server import is_loopback, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ibkd"):
            raise
        raise MissingPackage(error.name or "fastapi", "`ibkd serve`", "serve") from error
    return serve, is_loopback


def _open(folders: Sequence[Path], options: RankerOptions, remember: int, progress: Progress) -> list[ServedIndex]:
    from ibkd_retrieval.indexing.format.manifest import read_manifest
    from ibkd_retrieval.serving.answering import ServedIndex, suit_to_queries

    known: dict[str, Encoder] = {}
    from ibkd_retrieval.evaluation.fusion_weights import with_tuned_weights

    options = with_tuned_weights(folders, options, known, progress).options
    indexes = [
        ServedIndex.of(name, open_ranker([folder], options, known=known, progress=progress), read_manifest(folder))
        for name, folder in zip(_names(folders), folders, strict=True)
    ]
    for encoder in known.values():
        suit_to_queries(encoder, remember)
    return indexes


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or as they were given where two are called alike.

    Raises:
        UserError: a folder was given twice.
    """
    from ibkd_retrieval.errors import UserError

    for at, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:at]]:
            raise UserError(f"{folder} was given twice: name each index once.")
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]
