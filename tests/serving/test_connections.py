"""Clients that send no request, read no answer or open too many connections, and indexes replaced while served."""

import contextlib
import shutil
import socket
import time

import pytest

from helpers.searching import HashEncoder, indexed, searcher
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.search.searcher import Searcher
from ibkd_retrieval.serving.limits import Limits

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from helpers.client import eventually, serving

LONG = [Document(f"d{number}", f"text {number} " * 100_000) for number in range(20)]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return searcher(tmp_path_factory.mktemp("indexes") / "a", LONG)


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def is_closed(connection):
    with contextlib.suppress(ConnectionError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"], ids=["nothing", "half"])
def test_a_connection_without_a_whole_request_is_closed_in_time(ranker, sent):
    with serving({"a": ranker}, Limits(seconds=0.5)) as client, connected(client.port) as idle:
        idle.sendall(sent)
        began = time.monotonic()
        assert is_closed(idle)
        assert 0.3 < time.monotonic() - began < 10
        assert client("GET", "/healthz").status == 200


def test_the_head_of_a_second_request_has_to_come_in_time_too(ranker):
    with serving({"a": ranker}, Limits(seconds=0.5)) as client, connected(client.port) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += idle.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        idle.sendall(b"GET /healthz")
        assert is_closed(idle)


def test_one_address_cannot_take_every_connection(ranker):
    with serving({"a": ranker}, Limits(per_client=3, seconds=5)) as client, contextlib.ExitStack() as open_ones:
        held = [open_ones.enter_context(connected(client.port)) for _ in range(3)]
        assert is_closed(open_ones.enter_context(connected(client.port)))
        held[0].close()
        eventually(lambda: answers(client))


def answers(client):
    with contextlib.suppress(ConnectionError):
        return client("GET", "/healthz").status == 200
    return False


def test_an_answer_that_nobody_reads_is_dropped(ranker):
    with serving({"a": ranker}, Limits(seconds=1)) as client, socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(20)
        lazy.connect(("127.0.0.1", client.port))
        lazy.sendall(b"GET /search?q=text&k=20 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(3)
        received = 0
        with contextlib.suppress(ConnectionError):
            while part := lazy.recv(1 << 20):
                received += len(part)
        assert received < 12_000_000  # Of some 18 MB: the connection was ended and not left to wait.
        assert client("GET", "/healthz").status == 200


def test_an_index_replaced_while_it_is_served_is_said_in_health_and_in_answers(tmp_path):
    encoder = HashEncoder()
    served = Searcher(indexed(tmp_path / "i", LONG), encoder)
    with serving({"a": served}, Limits()) as client:
        assert client("GET", "/healthz").json["status"] == "ok"
        shutil.rmtree(tmp_path / "i")
        indexed(tmp_path / "i", [Document("other", "another text")])
        answer = client.ask(query="text 1", k=20)
        assert (answer.status, "was replaced while it was open" in answer.json["error"]) == (503, True)
        health = client("GET", "/healthz")
        assert (health.status, health.json["status"]) == (503, "failing")
        assert "was replaced" in health.json["fault"]
