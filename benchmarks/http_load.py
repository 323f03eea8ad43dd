"""Clients that keep a connection each and ask again once they are answered, all in one thread.

A thread for each client would take more of the processor than the server does for a small model, and a benchmark on
one machine would then measure its clients.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Loaded:
    """What clients saw: seconds it lasted, and milliseconds of each query."""

    seconds: float
    milliseconds: list[float]

    @property
    def per_second(self) -> float:
        """Queries answered a second."""
        return len(self.milliseconds) / self.seconds


@dataclass
class _Client:
    """One connection: the number of its next query, and what has arrived of the answer to the last."""

    place: int
    came: bytearray = field(default_factory=bytearray)
    began: float = 0.0

    def is_answered(self) -> bool:
        """Whether the answer has come whole.

        Raises:
            SystemExit: it is not a 200.
        """
        head, end, body = self.came.partition(b"\r\n\r\n")
        if not end:
            return False
        status, *headers = head.decode("ascii").lower().split("\r\n")
        if " 200" not in status:
            raise SystemExit(f"the server answered {status}: {bytes(body[:200])!r}")
        length = next(int(line.partition(":")[2]) for line in headers if line.startswith("content-length:"))
        return len(body) >= length


def load(port: int, texts: Sequence[str], k: int, clients: int, seconds: float) -> Loaded:
    """Have clients ask a server on this machine, each beginning at another of the texts."""
    return load_requests(port, [_request("/search", {"query": text, "k": k}) for text in texts], clients, seconds)


def embeddings_request(text: str, model: str) -> bytes:
    """A request for the vector of one query."""
    return _request("/v1/embeddings", {"model": model, "input": [text]})


def load_requests(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Loaded:
    """Have clients send requests to a server on this machine, each beginning at another of them."""
    milliseconds: list[float] = []
    with contextlib.ExitStack() as closing:
        waiting = closing.enter_context(selectors.DefaultSelector())
        for number in range(clients):
            connection = closing.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(connection, selectors.EVENT_READ, _Client(37 * number))
        began = time.perf_counter()
        for key in list(waiting.get_map().values()):
            _ask(key, requests)
        while time.perf_counter() - began < seconds:
            for key, _ in waiting.select(60):
                part = key.fileobj.recv(1 << 18)
                if not part:
                    raise SystemExit("the server closed a connection")
                key.data.came += part
                if key.data.is_answered():
                    milliseconds.append(1000 * (time.perf_counter() - key.data.began))
                    _ask(key, requests)
        return Loaded(time.perf_counter() - began, milliseconds)


def _request(path: str, content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _ask(key: selectors.SelectorKey, requests: Sequence[bytes]) -> None:
    client = key.data
    client.came.clear()
    client.began = time.perf_counter()
    key.fileobj.sendall(requests[client.place % len(requests)])
    client.place += 1
