"""A Ray cluster of this machine for tests: a head without CPUs, and nodes as processes."""

from __future__ import annotations

import errno
import os
import signal
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
def started(cpus: tuple[int, ...] = (1, 1)) -> Iterator[Any]:
    """A cluster with a node for each number of CPUs, without a connection to it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        # The processes of the nodes import the fakes.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # The paths of sockets are short.
        head = {"num_cpus": 0, "object_store_memory": STORE, "temp_dir": short}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for each in cpus:
                add_node(made, each)
            yield made
        finally:
            made.shutdown()


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
