"""Run the HTTP server until the process receives a signal to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.serving.answering import ServedIndex
from ibkd_retrieval.serving.app import create_app
from ibkd_retrieval.serving.limits import Limits

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
_BACKLOG = 1024
_TOLD_BUSY = 64


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    indexes: Sequence[ServedIndex],
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = lambda url: None,
    encoders: Mapping[str, Encoder] | None = None,
) -> None:
    """Serve indexes and encoders until SIGINT or SIGTERM; then take no more requests, and finish those under way.

    Args:
        indexes: indexes with different names. There may be none where there are encoders.
        limits: limits of requests and connections.
        host: address to listen on. On a loopback address, requests must name a loopback host.
        port: port to listen on. 0 takes a free one.
        ready: called with the address of the page once the server answers requests.
        encoders: encoders by name, for `/v1/embeddings`.

    Raises:
        UserError: the address cannot be listened on.
    """
    listener = listen(host, port)
    with listener:
        hosts = (*_LOOPBACK_NAMES, host) if is_loopback(host) else ("*",)
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        app = create_app(indexes, limits, hosts, lambda: ready(url), encoders)
        with _signals_end_quietly():
            uvicorn.Server(configuration(app, limits)).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens for connections.

    Raises:
        UserError: the address cannot be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small packets at once (TCP_NODELAY) on sockets that were made with the protocol's number only;
        # on others, an answer of two packets waits 40 ms for the client's acknowledgement of the first.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot listen on port {port} of {host} ({why}): give another `port` or `host`.") from error


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol that closes connections of clients that are too slow or too many.

    A client must send its request and read its answer in time.

    uvicorn limits none of this. Idle connections would use up all descriptors. Unread answers would fill the memory.
    """
    open_of: Counter[str] = Counter()
    # Beyond `limits.connections`, this many clients are told that the server is busy. Others are closed.
    most = limits.connections + _TOLD_BUSY

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            self._head_timer = self.loop.call_later(limits.seconds, transport.abort)
            self._reading_timer: asyncio.TimerHandle | None = None
            open_of[self._address] += 1
            if open_of[self._address] > limits.per_client or len(self.connections) > most:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            open_of[self._address] -= 1
            if not open_of[self._address]:
                del open_of[self._address]
            self._head_timer.cancel()
            self._read_on()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head_timer.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle is None or self.cycle.response_complete:
                # For the head of the next request. Its first byte stops uvicorn's own timer.
                self._head_timer.cancel()
                self._head_timer = self.loop.call_later(limits.seconds, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._read_on()
            self._reading_timer = self.loop.call_later(limits.seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read_on()

        def _read_on(self) -> None:
            if self._reading_timer is not None:
                self._reading_timer.cancel()
                self._reading_timer = None

    return Bounded


def configuration(app: Any, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs an application within limits."""
    # uvicorn logs a warning for each malformed request, which could fill a disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        # h11, because httptools does not limit the headers of a request.
        http=bounded_protocol(limits),
        lifespan="on",
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=limits.request_bytes,
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """A context in which a signal ends the server without a traceback. uvicorn would raise it again at its end."""
    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
