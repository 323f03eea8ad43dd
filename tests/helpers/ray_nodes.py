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
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
        # It would wait for half a minute to be let go.
        for each in _with_descendants(node.pid):
            os.kill(each, signal.SIGKILL)
        node.wait(30)


def _with_descendants(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(own): int(parent) for own, parent in map(str.split, listed.splitlines())}
    found = [process]
    for each in found:
        found += [own for own, parent in parents.items() if parent == each]
    return found


class Link(NamedTuple):
    """A network namespace of its own, which one link joins to this machine.

    Attributes:
        name: the name of the namespace.
        here: the address of this end of the link.
        there: the address of the other end.
    """

    name: str
    here: str
    there: str

    def set(self, state: str) -> None:
        """Cut the link ("down"), or join it again ("up")."""
        _run(f"ip link set {self.name}a {state}")


@contextmanager
def namespace() -> Iterator[Link]:
    """A network namespace with a link, which needs the rights of root."""
    number = os.getpid()
    name, subnet = f"ibkd{number % 10_000}", f"10.{200 + number % 50}.{number % 250}"
    link = Link(name, f"{subnet}.1", f"{subnet}.2")
    _run(f"ip netns add {name}")
    try:
        _run(f"ip link add {name}a type veth peer name {name}b netns {name}")
        _run(f"ip addr add {link.here}/24 dev {name}a")
        link.set("up")
        _run(f"ip -n {name} addr add {link.there}/24 dev {name}b")
        _run(f"ip -n {name} link set {name}b up")
        _run(f"ip -n {name} link set lo up")
        yield link
    finally:
        _run(f"ip netns del {name}")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def behind(link: Link, address: str) -> AbstractContextManager[None]:
    """A node of one CPU at the other end of a link."""
    return isolated_node(address, ["ip", "netns", "exec", link.name], "--node-ip-address", link.there)


IMPATIENT = {"health_check_period_ms": "500", "health_check_timeout_ms": "500", "health_check_failure_threshold": "2"}
"""Settings with which Ray declares a node dead after seconds."""


def driver(address: str, folder: Path, sleep: float, *options: str) -> subprocess.Popen[str]:
    """A process that builds an index of 95 documents on a cluster (`helpers.cluster_build`)."""
    command = [sys.executable, "-m", "helpers.cluster_build", address, str(folder), str(sleep), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


def together(fault: str, tell: Any) -> None:
    """What a test calls in each process of a group: the second one goes wrong while the first waits for it."""
    import torch.distributed as dist

    from ibkd_retrieval.distill.training import distributed as ranks

    tell(("rank", dist.get_rank()))
    if dist.get_rank() == 1:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("No such thing.")
    ranks.wait()
