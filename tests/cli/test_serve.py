import json
import signal
import socket
import sys
import time
from http.client import HTTPConnection

import pytest

from helpers.driving import read_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory, home, teacher, stranger, beir):
    """A folder with two indexes of one corpus."""
    from helpers.driving import Shell

    shell = Shell(tmp_path_factory.mktemp("served"), home)
    for name, model in (("first", teacher), ("second", stranger)):
        shell.must("index", "--corpus", beir, "--model", model, "--output", name)
    return shell


@pytest.fixture
def web():
    for name in ("fastapi_offline", "prometheus_client", "uvicorn"):
        pytest.importorskip(name)


def started(shell, *args):
    """A server in a process of its own, and its port."""
    process = shell.start("serve", *args, "--port", 0)
    line = read_until(process, process.stdout.fileno(), b"\n").decode()
    assert line.startswith("http://127.0.0.1:"), line + read_until(process, process.stderr.fileno()).decode()
    return process, int(line.split("/")[2].rpartition(":")[2])


def refuses_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        pass  # Its queue of connections is full, which nobody takes from any more.
    time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_and_ends_on_a_signal_with_what_is_under_way_finished(folder, web, ending):
    process, port = started(folder, "--index", "first", "--index", "second")
    assert read_until(process, process.stderr.fileno(), b"\n").startswith(b"loading first: 200 documents, model ")
    try:
        body = json.dumps({"query": "river bank", "k": 3}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as begun:
            begun.sendall(
                b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:5])
            )
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/search?q=river+bank&k=3")
            answer = json.loads(connection.getresponse().read())
            process.send_signal(ending)
            deadline = time.monotonic() + 60
            while not refuses_connections(port):
                assert time.monotonic() < deadline, "connections are taken on"
            begun.sendall(body[5:])
            reply = b"".join(iter(lambda: begun.recv(65536), b""))
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
    head, _, content = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    finished = json.loads(content)
    for found in (answer, finished):
        for index in found["indexes"]:
            told = json.loads(folder.must("search", "river bank", "--index", index["index"], "-k", 3, "--json").out)
            assert [hit["id"] for hit in index["hits"]] == [hit["id"] for hit in told["hits"]]
    assert [index["index"] for index in answer["indexes"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ((), {"query": 1000, "k": 100, "batch": 32, "waiting": 128, "seconds": 10.0}),
        (
            ("--max-query", 17, "--max-k", 18, "--max-batch", 19, "--max-waiting", 20, "--timeout", 2.5),
            {"query": 17, "k": 18, "batch": 19, "waiting": 20, "seconds": 2.5},
        ),
    ],
)
def test_every_limit_that_is_given_reaches_the_server(folder, web, monkeypatch, options, limits):
    from ibkd_retrieval.serving import server

    began = []
    monkeypatch.setattr(server, "serve", lambda *given: began.append(given))
    folder.must("serve", "--index", "first", "--port", 8123, *options)
    ((indexes, given, host, port, _, encoders),) = began
    assert not encoders
    assert [index.name for index in indexes] == ["first"]
    assert {name: getattr(given, name) for name in limits} == limits
    assert (host, port) == ("127.0.0.1", 8123)


@pytest.mark.parametrize(("options", "remembered"), [((), 1024), (("--remember", 7), 7), (("--remember", 0), 0)])
def test_as_many_queries_are_remembered_as_was_said(folder, web, monkeypatch, options, remembered):
    from ibkd_retrieval.serving import server

    began = []
    monkeypatch.setattr(server, "serve", lambda indexes, *rest: began.extend(indexes))
    folder.must("serve", "--index", "first", "--index", "second", *options)
    assert [index.ranker.encoder.remembered_queries for index in began] == [remembered, remembered]


def test_models_alone_are_served_as_an_embeddings_endpoint(folder, web, teacher):
    process, port = started(folder, "--embeddings", teacher, "--quiet")
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"model": teacher.name, "input": ["river bank", "bread"]})
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        process.kill()
        process.wait()
    from ibkd_retrieval.encoders.encoder import Encoder

    vectors = Encoder.load(teacher, device="cpu").encode(["river bank", "bread"])
    assert [item["embedding"] for item in answer["data"]] == [pytest.approx(row, abs=1e-2) for row in vectors.tolist()]


def test_indexes_and_models_are_served_together(folder, web, teacher, monkeypatch):
    from ibkd_retrieval.serving import server

    began = []
    monkeypatch.setattr(server, "serve", lambda *given: began.append(given))
    folder.must("serve", "--index", "first", "--embeddings", teacher)
    ((indexes, *_, encoders),) = began
    assert [index.name for index in indexes] == ["first"]
    assert list(encoders) == [teacher.name]


def test_a_taken_port_is_named(folder, web):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = folder("serve", "--index", "first", "--port", port)
    assert answer.code == 2
    assert f"Cannot listen on port {port} of 127.0.0.1" in answer.err


def test_an_address_that_others_reach_is_warned_of(folder, web):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        answer = folder("serve", "--index", "first", "--host", "0.0.0.0", "--port", taken.getsockname()[1])
    assert answer.code == 2
    assert "0.0.0.0 is no loopback address" in answer.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--index", "first", "--index", "./first"), "was given twice"),
        (("--index", "first", "--max-k", 0), "`k` must be above 0"),
        (("--index", "first", "--timeout", "-1"), "`seconds` must be above 0"),
        (("--index", "nowhere"), "nowhere"),
    ],
)
def test_wrong_options_get_one_sentence(folder, web, args, says):
    answer = folder("serve", *args, "--port", 0)
    assert answer.code == 2
    assert says in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_without_the_extra_the_line_to_type_is_told(folder, monkeypatch):
    for name in ("server", "app"):
        monkeypatch.delitem(sys.modules, f"ibkd_retrieval.serving.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer = folder("serve", "--index", "first")
    assert answer.code == 2
    assert "pip install 'ibkd-retrieval[serve]'" in answer.err
