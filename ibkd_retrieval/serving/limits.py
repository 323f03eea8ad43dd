"""Limits of a server, and the guard of every request: size limits, security headers and request counts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, fields
from typing import Any

from ibkd_retrieval.errors import UserError

# A character outside the basic plane takes twelve bytes as a pair of JSON escapes, and as many percent-encoded.
_LONGEST_CHARACTER = 12
_REST_OF_REQUEST = 8192
EMBEDDINGS_PATH = "/v1/embeddings"
"""The path of the embeddings endpoint, whose bodies may be larger than those of queries."""


@dataclass(frozen=True)
class Limits:
    """Limits on single requests and on concurrent work.

    Attributes:
        query: maximum number of characters of a query.
        k: maximum number of results per query.
        batch: maximum number of queries that are encoded and searched together.
        waiting: maximum number of queries that wait for a batch. Further ones are rejected.
        connections: maximum number of open connections, idle ones included.
        per_client: maximum number of connections from one address. Further ones are closed at once.
        inputs: maximum number of texts of a request for embeddings.
        embeddings_bytes: maximum size of the body of a request for embeddings.
        seconds: timeout of each phase: reading the head, reading the body, answering, and the client's reading.
    """

    query: int = 1000
    k: int = 100
    batch: int = 32
    waiting: int = 128
    connections: int = 512
    per_client: int = 256
    inputs: int = 2048
    embeddings_bytes: int = 8 << 20
    seconds: float = 10.0

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            UserError: a limit is not above 0.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UserError(f"The limit of a server's `{field.name}` must be above 0, not {value}.")

    @property
    def request_bytes(self) -> int:
        """Maximum bytes of a request's body, and of its head: room for the longest query in any encoding."""
        return _LONGEST_CHARACTER * self.query + _REST_OF_REQUEST


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Scripts and styles come only from this server's files, so a shown document cannot bring its own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]


def error_body(path: str, status: int, sentence: str) -> dict[str, Any]:
    """The JSON of an error. Under `/v1/` it has the form that clients of OpenAI's API read."""
    if not path.startswith("/v1/"):
        return {"error": sentence}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": status}}


class Guard:
    """An ASGI application around another that reads bodies within bounds, and adds headers to every answer."""

    def __init__(
        self,
        app: Application,
        *,
        limits: Limits,
        paths: Collection[str],
        count: Callable[[str, int, float], None],
    ) -> None:
        """Put a guard before `app`.

        Args:
            app: the application that answers.
            limits: limits of bodies and times.
            paths: paths that are counted by name. All others are counted together.
            count: called with path, status and seconds of each request.
        """
        self._app, self._limits, self._paths, self._count = app, limits, frozenset(paths), count

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        finally:
            path = scope["path"]
            self._count(path if path in self._paths else "other", status, time.perf_counter() - began)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        most = self._limits.embeddings_bytes if scope["path"] == EMBEDDINGS_PATH else self._limits.request_bytes
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await _body(receive, _announced(scope), most)
        except _TooLarge:
            await _refuse(scope, send, 413, f"The body of a request may have {most:,} bytes: send less.")
            return
        except TimeoutError:
            seconds = self._limits.seconds
            await _refuse(scope, send, 408, f"The body of the request did not arrive within {seconds:g} seconds.")
            return
        if body is None:
            return
        ready: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_ready() -> Message:
            return ready.pop() if ready else await receive()

        await self._app(scope, receive_ready, send)


class _TooLarge(Exception):
    pass


def _announced(scope: MutableMapping[str, Any]) -> int:
    """Size of the body by the headers, 0 if they do not say. The server has refused a size that is not a number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


async def _body(receive: Receive, announced: int, most: int) -> bytes | None:
    """The whole body of a request. None if the client has left."""
    if announced > most:
        raise _TooLarge
    parts = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts += message.get("body", b"")
        if len(parts) > most:
            raise _TooLarge
        more = message.get("more_body", False)
    return bytes(parts)


async def _refuse(scope: MutableMapping[str, Any], send: Send, status: int, sentence: str) -> None:
    """Answer without reading the rest of the body, and close the connection."""
    body = json.dumps(error_body(scope["path"], status, sentence)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
