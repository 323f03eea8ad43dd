"""Requests that no well-meaning client sends, each with the statuses that answer it rightly."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

THREADS = 8
JSON_TYPE = "application/json"
TEXTS = (
    "<script>alert(1)</script>",
    "'; DROP TABLE documents; --",
    "../../../../etc/passwd",
    "${jndi:ldap://example.invalid/a}",
    "{{7*7}}",
    "\x00\x01\x02\x1b[31m\x7f",
    "\u202e\u2066\ufeff\U0001f4a9" * 20,
    "a" * 1000,
    "e\u0301" * 400,
)
NOT_JSON = ("{", "[" * 5000, "nonsense", '{"query": ', '{"query": "a"} trailing', "{'query': 'a'}")
NO_QUERY = (
    "null",
    "[]",
    "7",
    "{}",
    "\ufeff{}",
    '{"query": null}',
    '{"query": 7}',
    '{"query": ["a"]}',
    '{"query": {"$gt": ""}}',
    '{"query": ""}',
    '{"query": "  \\t\\n "}',
    '{"query": "\\ud800"}',
    '{"__proto__": {"query": "a"}}',
)
BAD_K = ("0", "-1", "101", "1e309", "1.5", '"ten"', "null", "[]", "NaN", "99999999999999999999")
BAD_HTTP = (
    b"\x00\x16\x03\x01\x02\x00\x01\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"GET /search?q=" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


@dataclass
class Outcome:
    """How requests were answered.

    Attributes:
        kinds: requests by kind.
        abandoned: how many of them nobody waited for; their answers are not known.
        wrong: kind and answer of each of the others that was not answered rightly.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hostile:
    """A request as bytes. `right` are the statuses that answer it; 0 is an end without an answer.

    Without any, the connection is closed once all is sent: what counts is that the server lives on.
    """

    kind: str
    sent: bytes
    right: tuple[int, ...]


def post(body: bytes, content_type: str = JSON_TYPE, host: str = "localhost", length: int | None = None) -> bytes:
    """A request to search."""
    head = f"POST /search HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: {content_type}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def get(path: str, host: str = "localhost", method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def _searched(chance: random.Random) -> Hostile:
    body = json.dumps({"query": chance.choice(TEXTS), "k": chance.choice((1, 10, 100)), "passages": True}).encode()
    return Hostile("malicious text", post(body), (200, 429))


def _huge(chance: random.Random) -> Hostile:
    if chance.random() < 0.5:
        return Hostile("long query", post(json.dumps({"query": "a" * chance.randint(1001, 8000)}).encode()), (422,))
    return Hostile("huge body", post(b" " * chance.randint(100_000, 2_000_000)), (413,))


def _chunks(chance: random.Random) -> Hostile:
    head = (
        f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return Hostile(
        "endless chunks", head.encode() + b"2000\r\n" + b"a" * 0x2000 + (b"\r\n2000\r\n" + b"a" * 0x2000) * 9, (413,)
    )


MAKERS: tuple[Callable[[random.Random], Hostile], ...] = (
    _searched,
    _huge,
    _chunks,
    lambda chance: Hostile("no JSON", post(chance.choice(NOT_JSON).encode()), (400,)),
    lambda chance: Hostile("random bytes", post(chance.randbytes(chance.randint(1, 3000))), (400, 422)),
    lambda chance: Hostile("no query", post(chance.choice(NO_QUERY).encode()), (422,)),
    lambda chance: Hostile("bad k", post(f'{{"query": "a", "k": {chance.choice(BAD_K)}}}'.encode()), (422,)),
    lambda chance: Hostile("empty body", post(b""), (422,)),
    lambda chance: Hostile("not declared as JSON", post(b'{"query": "a"}', "text/plain"), (415,)),
    lambda chance: Hostile("another host", post(b'{"query": "a"}', host="evil.example"), (400,)),
    lambda chance: Hostile("bad address", get("/search?q=" + quote(" " * chance.randint(0, 5))), (422,)),
    lambda chance: Hostile(
        "path outside", get(chance.choice(("/page/..%2f..%2fapp.py", "/.env", "/page/%00"))), (404,)
    ),
    lambda chance: Hostile("bad method", get("/search", method=chance.choice(("PUT", "DELETE", "TRACE"))), (405,)),
    lambda chance: Hostile("bad HTTP", chance.choice(BAD_HTTP), (0, 400)),
    lambda chance: Hostile("abandoned body", post(b'{"que', length=900), ()),
    lambda chance: Hostile("abandoned query", post(b'{"query": "river bank"}'), ()),
)


def bombard(port: int, requests: int, seed: int) -> Outcome:
    """Send requests of every kind to a server on this machine, over several connections at a time."""
    chance = random.Random(seed)
    waiting = [MAKERS[number % len(MAKERS)](chance) for number in range(requests)]
    chance.shuffle(waiting)
    outcome, lock = Outcome(), threading.Lock()

    def send() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                hostile = waiting.pop()
            status = _status(port, hostile)
            with lock:
                outcome.kinds[hostile.kind] += 1
                if not hostile.right:
                    outcome.abandoned += 1
                elif status not in hostile.right:
                    outcome.wrong.append(f"{hostile.kind}: {status}, {hostile.sent[:150]!r}")

    threads = [threading.Thread(target=send) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _status(port: int, hostile: Hostile) -> int:
    """The status of the answer, 0 where there is none or nobody waits for it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        # A server that has refused may close before all is sent.
        with contextlib.suppress(ConnectionError):
            connection.sendall(hostile.sent)
        if not hostile.right:
            return 0
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
