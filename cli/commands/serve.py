"""`ibkd serve`: indexes and models behind HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..display.console import reporter
from ..options.common import Quiet
from ..options.declare import ADVANCED, grouped, option
from ..options.ranking import RankingTyped, opened

LIMITS = f"{ADVANCED}: limits"


@dataclass(frozen=True)
class ServeOptions:
    """What is served, and where."""

    index: Annotated[
        tuple[Path, ...],
        option(
            "Index folder; repeat to compare the others with the first.",
            metavar="INDEX",
            default="the newest in indexes/",
        ),
    ] = ()
    embeddings: Annotated[
        tuple[str, ...],
        option(
            "Model to serve at /v1/embeddings, in the form of OpenAI's API; repeat for more. Without --index it is "
            "all that is served.",
            metavar="MODEL",
            default=False,
        ),
    ] = ()
    host: Annotated[
        str,
        option("Address to listen on; 0.0.0.0 for every machine that reaches this one.", metavar="ADDRESS"),
    ] = "127.0.0.1"
    port: Annotated[int, option("Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000
    quiet: Quiet = False
    max_k: Annotated[int, option("Most results a query.", panel=LIMITS)] = 100
    max_query: Annotated[int, option("Most characters of a query.", panel=LIMITS)] = 1000
    max_batch: Annotated[int, option("Most queries encoded and searched together.", panel=LIMITS)] = 32
    max_waiting: Annotated[int, option("Most queries that wait; further ones are turned away (429).", panel=LIMITS)] = (
        128
    )
    timeout: Annotated[
        float, option("Most seconds for a query, waiting included.", panel=LIMITS, metavar="SECONDS")
    ] = 10.0
    remember: Annotated[
        int,
        option(
            "Recent queries whose vectors are kept for repeated queries, a few kB each; 0 for none.",
            panel=LIMITS,
            min=0,
        ),
    ] = 1024


@grouped
def serve(asked: ServeOptions, ranking: RankingTyped) -> None:
    """Serve indexes over HTTP, with a page to search them, or models as an embeddings endpoint.

    The page shows the answers of several indexes side by side. The JSON API is /search; /docs describes it, and
    /healthz and /metrics are for operators. --embeddings adds /v1/embeddings in the form of OpenAI's API.
    """
    from ibkd_retrieval.serving.limits import Limits

    limits = Limits(
        query=asked.max_query,
        k=asked.max_k,
        batch=asked.max_batch,
        waiting=asked.max_waiting,
        seconds=asked.timeout,
    )
    from ibkd_retrieval.indexing.format.manifest import read_manifest
    from ibkd_retrieval.search.open import index_folder, say_loading

    progress = reporter(asked.quiet)
    folders = [index_folder(each, progress) for each in asked.index or ([] if asked.embeddings else [None])]
    from ibkd_retrieval.serving.answering import names_apart, served

    names_apart(folders)  # Refuses one that was given twice, before any is loaded.
    say_loading({folder: read_manifest(folder) for folder in folders}, progress)
    run, is_loopback = _server()
    indexes = served(opened([[each] for each in folders], ranking, progress), asked.remember)
    encoders = {}
    if asked.embeddings:
        from ibkd_retrieval.serving.embeddings import load_served

        encoders = load_served(
            asked.embeddings,
            backend=ranking.backend,
            dtype=ranking.dtype,
            device=ranking.device,
            pooling=ranking.pooling,
            progress=progress,
        )
    if not is_loopback(asked.host):
        progress.say(
            f"{asked.host} is no loopback address: whoever reaches this machine may use what is served here and read "
            "the documents of its indexes, unencrypted and without a password."
        )
    run(
        indexes,
        limits,
        asked.host,
        asked.port,
        lambda url: print(f"{url} (Ctrl-C ends)", flush=True),  # noqa: T201
        encoders,
    )


def _server() -> tuple[Callable[..., None], Callable[[str], bool]]:
    from ibkd_retrieval.errors import MissingPackage

    try:
        from ibkd_retrieval.serving.server import is_loopback, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ibkd"):
            raise
        raise MissingPackage(error.name or "fastapi", "`ibkd serve`", "serve") from error
    return serve, is_loopback
