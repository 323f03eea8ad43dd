"""A Ray cluster of this machine for tests: a head without CPUs, and nodes as processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ibkd_retrieval.errors import UserError, WorkFailed

STORE = 80 * 1024 * 1024


def add_node(cluster: Any, cpus: int = 1) -> Any:
    """Have one more node join."""
    return cluster.add_node(num_cpus=cpus, object_store_memory=STORE)


@contextmanager
def started(cpus: tuple[int, ...] = (1, 1), address: str | None = None, **settings: str) -> Iterator[Any]:
    """A cluster with a node for each number of CPUs, without a connection to it. `settings` are Ray's own."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        # The processes of the nodes import the fakes.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, value in settings.items():
            patch.setenv(f"RAY_{name}", value)
        # The paths of sockets are short.
        every = {"object_store_memory": STORE} | ({} if address is None else {"node_ip_address": address})
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": short, **every})
        try:
            for each in cpus:
                made.add_node(num_cpus=each, **every)
            yield made
        finally:
            made.shutdown()


@contextmanager
def isolated_node(address: str, wrapper: list[str], *options: str) -> Iterator[None]:
    """A node of one CPU that a command such as `unshare` starts, in namespaces of its own. It may take a while."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1", *options]
    ray += ["--address", address, "--object-store-memory", str(STORE)]
    node = subprocess.Popen([*wrapper, *ray], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        node.terminate()
        node.wait(30)


def driver(address: str, folder: Path, sleep: float, *options: str) -> subprocess.Popen[str]:
    """A process that builds an index of 95 documents on a cluster (`helpers.cluster_build`)."""
    command = [sys.executable, "-m", "helpers.cluster_build", address, str(folder), str(sleep), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def marked(numbers: Any, item: Any) -> Any:
    """What a test calls on a node: some items go wrong, and a path is written after a while."""
    if isinstance(item, Path):
        time.sleep(2)
        item.touch()
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    errors = {
        "user": UserError("No such thing."),
        "failed": WorkFailed("Nothing is left."),
        "bug": ZeroDivisionError("division by zero"),
        "full": OSError(errno.ENOSPC, "No space left on device", "/there"),
    }
    if item in errors:
        raise errors[item]
    time.sleep(0.2)
    return item, int(numbers.sum())
