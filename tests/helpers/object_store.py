"""An S3-compatible server on this machine, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def serving() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a moto server, and its process."""
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(300):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", server
        server.kill()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a moto server."""
    with serving() as (address, _):
        yield address


def make_bucket(name: str) -> str:
    """Make a bucket, and give its address."""
    from pyarrow import fs

    files, path = fs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    files.create_dir(path)
    return f"s3://{name}"


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path) -> str:
    """The address of a new, empty bucket. The environment leads to the server."""
    for name, value in (
        ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ).items():
        monkeypatch.setenv(name, value)
    return make_bucket(f"bucket-{abs(hash(request.node.name)):x}")
