"""A server in this process on a port of its own, and a client that sends what it is told."""

import contextlib
import json
import socket
import threading
import time
from http.client import HTTPConnection
from typing import NamedTuple

from ibkd_retrieval.serving.answering import ServedIndex


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    def __init__(self, port):
        self.port = port

    def __call__(self, method, path, body=None, headers=None, timeout=30):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()

    def ask(self, **body):
        return self.send(json.dumps(body))

    def send(self, body, content_type="application/json"):
        return self("POST", "/search", body, {"Content-Type": content_type})

    def raw(self, sent, timeout=10):
        """Send bytes as they are, and read until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(sent)
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    parts.append(part)
            return b"".join(parts)

    def metric(self, line):
        """The value of a line of /metrics, 0 where there is none."""
        lines = self("GET", "/metrics").body.decode().splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.rpartition(" ")[0] == line), 0.0)


@contextlib.contextmanager
def serving(rankers, limits, hosts=("localhost", "127.0.0.1"), encoders=None):
    """Serve rankers and encoders by name."""
    import uvicorn

    from ibkd_retrieval.serving.app import create_app
    from ibkd_retrieval.serving.server import configuration, listen

    indexes = [ServedIndex(name, ranker, 30, "tiny", 8, "flat") for name, ranker in rankers.items()]
    ready = threading.Event()
    server = uvicorn.Server(configuration(create_app(indexes, limits, hosts, ready.set, encoders), limits))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield Client(port)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def eventually(holds, seconds=10):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
