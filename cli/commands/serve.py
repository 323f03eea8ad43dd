"""`ibkd serve`: indexes behind HTTP, with a page that shows their answers side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

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
from ..options.ranking import open_tuned, ranking_options


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
    from ibkd_retrieval.serving.answering import served

    progress = reporter(quiet)
    indexes = served(open_tuned([[each] for each in index or []] or [None], options, progress), remember)
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
