"""The web application: a page, a JSON API, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi_offline
from fastapi import Body, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from ibkd_retrieval import __version__
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.serving import payload
from ibkd_retrieval.serving.answering import (
    Answer,
    MicroBatcher,
    Question,
    ServedIndex,
    answer_all,
    can_share,
    thread_sharer,
)
from ibkd_retrieval.serving.embeddings import MODELS_PATH, EmbeddingsService, add_embeddings
from ibkd_retrieval.serving.limits import EMBEDDINGS_PATH, Guard, Limits, error_body
from ibkd_retrieval.serving.waiting import answer_of, json_response

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, indexes: Sequence[ServedIndex], waiting: Callable[[], float]) -> None:
        """Start at zero.

        Args:
            indexes: the served indexes.
            waiting: returns the number of waiting queries.
        """
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("ibkd_requests", "Requests answered.", ["path", "status"], registry=registry)
        self._request_seconds = Histogram(
            "ibkd_request_seconds", "From request to answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "ibkd_batch_queries", "Queries worked on together.", buckets=_BATCHES, registry=registry
        )
        self._encoding = Histogram(
            "ibkd_encoding_seconds", "To encode a batch.", ["index"], buckets=_SECONDS, registry=registry
        )
        self._searching = Histogram(
            "ibkd_searching_seconds", "To search for a batch.", ["index"], buckets=_SECONDS, registry=registry
        )
        Gauge("ibkd_waiting_queries", "Queries that wait for a batch.", registry=registry).set_function(waiting)
        documents = Gauge("ibkd_documents", "Documents that can be found.", ["index"], registry=registry)
        for index in indexes:
            documents.labels(index.name).set(index.documents)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request. `path` is one of a few names."""
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def batch(self, indexes: Sequence[ServedIndex], answers: Sequence[Sequence[Answer]]) -> None:
        """Count an answered batch. `answers` holds, for each question, the answer of each index."""
        self._batches.observe(len(answers))
        for index, answer in zip(indexes, answers[0], strict=True):
            self._searching.labels(index.name).observe(answer.searching_ms / 1000)
            if answer.encoding_ms is not None:
                self._encoding.labels(index.name).observe(answer.encoding_ms / 1000)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))


PAGE = Path(__file__).parent / "page"
DEFAULT_K = 10
_WARM_UP = Question("warm up", 1)
_PATHS = ("/", "/search", "/healthz", "/metrics", "/docs", "/openapi.json", EMBEDDINGS_PATH, MODELS_PATH)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": payload.Problem, "description": "The body is not JSON."},
    408: {"model": payload.Problem, "description": "The body did not arrive in time."},
    413: {"model": payload.Problem, "description": "The body is too large."},
    415: {"model": payload.Problem, "description": "The body is not declared as JSON."},
    422: {"model": payload.Problem, "description": "A value is missing or out of bounds."},
    429: {"model": payload.Problem, "description": "Too many requests wait; ask again after `Retry-After` seconds."},
    503: {"model": payload.Problem, "description": "The answer took too long, or the server is stopping."},
}
_FAILURES = {status: known | {"model": payload.Failure} for status, known in _PROBLEMS.items()} | {
    404: {"model": payload.Failure, "description": "The model is not served."}
}
_ABOUT = """Answers of each index to a query, side by side. A query waits while the batch before it is worked on and
then joins the next one."""


def create_app(
    indexes: Sequence[ServedIndex],
    limits: Limits,
    hosts: Sequence[str] = ("*",),
    ready: Callable[[], None] = lambda: None,
    encoders: Mapping[str, Encoder] | None = None,
) -> Guard:
    """Make the application that serves indexes and encoders. Its lifespan must run: it ends the threads that work.

    Args:
        indexes: indexes with different names. The first is the reference of comparisons. Without any, there is no
            search.
        limits: limits of requests and connections.
        hosts: allowed names in the Host header. Another site can make its own name resolve to this machine (DNS
            rebinding), and its pages send that name. A server on a loopback address should allow loopback names only.
        ready: called after the first query is answered. That query loads everything that is loaded at first use.
        encoders: encoders by name, for `/v1/embeddings`.
    """
    embeddings = EmbeddingsService(encoders, limits) if encoders else None
    service = _Service(indexes, limits, embeddings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if indexes:
            await asyncio.wrap_future(service.batcher.submit(_WARM_UP))
        if embeddings is not None:
            await embeddings.warm_up()
        ready()
        yield
        if embeddings is not None:
            await asyncio.to_thread(embeddings.batcher.close, limits.seconds)
        await asyncio.to_thread(service.batcher.close, limits.seconds)

    app = FastAPI(
        title="ibkd-retrieval",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # Its scripts come from another host. /docs below serves its own.
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={
            RequestValidationError: _invalid,
            AnyHTTPException: _refused,
            UserError: service.unfit,
            Exception: _failed,
        },
    )
    if indexes:
        _add_search(app, service)
    if embeddings is not None:
        add_embeddings(app, embeddings, _FAILURES)
    app.add_api_route("/healthz", service.health, response_model=payload.Health, summary="Whether queries are answered")
    app.add_api_route("/metrics", service.count, response_class=Response, summary="Counters in Prometheus' text form")
    # Without an index there is nothing to search: the first page is the description of the API.
    for path, name in (("/", "index.html" if indexes else "docs.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _file(PAGE / name), include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/swagger", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))
    # Outermost, because FastAPI answers failures outside of its middleware.
    return Guard(app, limits=limits, paths=_PATHS, count=service.metrics.request)


class _Service:
    """What the routes share."""

    def __init__(self, indexes: Sequence[ServedIndex], limits: Limits, embeddings: EmbeddingsService | None) -> None:
        self.indexes, self.limits, self.embeddings = tuple(indexes), limits, embeddings
        self.fault: str | None = None
        self.metrics = Metrics(indexes, lambda: self.batcher.waiting)
        self.batcher = MicroBatcher(
            self._work,
            max_batch=limits.batch,
            max_waiting=limits.waiting,
            workers=2 if indexes and can_share(indexes) else 1,
            begin=thread_sharer(),
        )

    def _work(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        answers = answer_all(self.indexes, questions)
        if questions[0] is not _WARM_UP:
            self.metrics.batch(self.indexes, answers)
        self.fault = None
        return answers

    async def unfit(self, request: Request, error: Exception) -> Response:
        """Answer where an index or a model cannot, such as one whose folder was replaced. Nothing is logged."""
        if request.url.path != EMBEDDINGS_PATH:
            self.fault = str(error)
        return _problem(request, 503, str(error))

    async def search(self, text: str, k: int, passages: bool) -> Response:
        if not text.strip():
            raise HTTPException(422, "The query is empty: type at least one word.")
        question = Question(text, k)
        late = f"The search did not end within {self.limits.seconds:g} seconds: ask again later."
        answers = await answer_of(self.batcher, question, self.limits, waiting="queries", late=late)
        if not passages:
            return json_response(payload.search_answer(self.indexes, question, answers))
        # Finding passages in long texts takes time, and other requests must not wait for it.
        shown = await asyncio.to_thread(payload.search_answer, self.indexes, question, answers, True)
        return json_response(shown)

    async def health(self) -> Response:
        alive = self.batcher.alive and (self.embeddings is None or self.embeddings.batcher.alive)
        models = [] if self.embeddings is None else list(self.embeddings.encoders)
        state = payload.health(self.indexes, models, self.limits, alive, self.fault)
        return JSONResponse(state, 200 if alive and self.fault is None else 503)

    async def count(self) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)


def _add_search(app: FastAPI, service: _Service) -> None:
    limits = service.limits
    text: dict[str, Any] = {"min_length": 1, "max_length": limits.query, "description": "What to look for."}
    number: dict[str, Any] = {"ge": 1, "le": limits.k, "description": "Results wanted of each index."}
    shown: dict[str, Any] = {"description": "Also show the passage of each document that answers best."}
    usual = min(DEFAULT_K, limits.k)

    async def by_url(
        q: str = Query(**text),
        k: int = Query(usual, **number),
        passages: bool = Query(False, **shown),
    ) -> Response:
        return await service.search(q, k, passages)

    async def by_body(
        query: str = Body(**text),
        k: int = Body(usual, **number),
        passages: bool = Body(False, **shown),
    ) -> Response:
        return await service.search(query, k, passages)

    for method, endpoint in (("GET", by_url), ("POST", by_body)):
        app.add_api_route(
            "/search",
            endpoint,
            methods=[method],
            response_model=payload.SearchAnswer,
            responses=_PROBLEMS,
            summary="Search every index",
            operation_id=f"search_{method.lower()}",
        )


def _file(path: Path) -> Any:
    async def read() -> Response:
        return FileResponse(path)

    return read


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """One sentence about the first fault. The input is not repeated, because it can be large or hostile."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _problem(request, 400, "The body is not JSON.")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and media_type != "application/json":
        return _problem(request, 415, "Send the body as JSON, with the header `Content-Type: application/json`.")
    where = [str(part) for part in first["loc"][1:]]
    return _problem(request, 422, f"{'.'.join(where) or 'body'}: {first['msg']}.")


async def _refused(request: Request, error: AnyHTTPException) -> Response:
    return _problem(request, error.status_code, str(error.detail), error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _problem(request, 500, "The request failed; the server's log says why.")


def _problem(request: Request, status: int, sentence: str, headers: Any = None) -> Response:
    return JSONResponse(error_body(request.url.path, status, sentence), status, headers)
