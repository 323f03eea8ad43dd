"""What every request passes: bounds on its body and its time, security headers, a count."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from ibkd_retrieval.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Scripts and styles come from files of this server alone: a document that is shown cannot bring one of its own.
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
            app: what answers.
            limits: of bodies and times.
            paths: that are counted by their own name; all others are counted together.
            count: told path, status and seconds of each request.
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
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await _body(receive, _announced(scope), self._limits.request_bytes)
        except _TooLarge:
            most = self._limits.request_bytes
            await _refuse(send, 413, f"The body of a request may have {most:,} bytes: send less.")
            return
        except TimeoutError:
            seconds = self._limits.seconds
            await _refuse(send, 408, f"The body of the request did not arrive within {seconds:g} seconds.")
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
    """Bytes of the body, as far as the request's headers tell; the server has refused lengths that are no numbers."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


async def _body(receive: Receive, announced: int, most: int) -> bytes | None:
    """All of a request's body, None where the client has gone."""
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


async def _refuse(send: Send, status: int, sentence: str) -> None:
    """Answer without reading on; the connection, whose next request cannot be told from this body, is closed."""
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
