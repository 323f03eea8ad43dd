"""Runs functions on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

from ibkd_retrieval.errors import UserError, WorkFailed, first_line, require

KEPT = "what is finished is kept; go on with `resume`"
"""How a message about work that resumes ends."""

T = TypeVar("T")
A = TypeVar("A")

_PACKAGES = ("ibkd-retrieval", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


class Suited(NamedTuple):
    """How a node that suits some work does it.

    Attributes:
        order: how well it suits. None where all nodes that suit work at once.
        gpus: GPUs of a process there.
        arguments: further arguments of a process there.
    """

    order: tuple[float, ...] | None = None
    gpus: int = 0
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how much of it may be used at once.

    Attributes:
        address: "auto" for the cluster that this machine belongs to, or its HOST:PORT.
        count: maximum number of processes at once. None is as many as the cluster has room for.
        cpus: cores of a process.
        gpus: GPUs of a process.
    """

    address: str
    count: int | None = None
    cpus: int = 1
    gpus: int = 0

    def run(
        self,
        function: Callable[..., A],
        items: Iterator[T],
        *,
        given: Callable[[T], tuple[Any, ...]],
        called: Callable[[T], str],
        common: tuple[Any, ...] = (),
        packages: tuple[str, ...] = (),
        preflight: Callable[..., Any] | None = None,
        joined: Callable[[str, Any], None] = lambda node, report: None,
        suits: Callable[[dict[str, float], Any], Suited | None] | None = None,
        began: Callable[[T, str, Suited], None] = lambda item, node, how: None,
        doing: str = "The work",
        process: str = "process",
        resumes: bool = True,
        advice: str = "",
    ) -> Generator[tuple[T, A, str], None, None]:
        """Call `function(*common, *given(item))` for each item, in processes of the nodes.

        Ray's own retries are off. What a node did not finish when it died is done elsewhere, without limit. At the end
        slow items are done a second time elsewhere, and the first answer counts. At most one item for each process is
        taken from `items` ahead of its answer. What still runs when the caller stops is ended.

        Args:
            function: a function of a module that the nodes have. It may keep in a global what it loads: the next item
                often comes to the same process. It can be called twice for an item, and be killed at any point.
            items: what to do. An item stays here and is not sent.
            given: gives the arguments for an item.
            called: gives the name of an item for an error message, with a capital: "Shard 4".
            common: arguments for all items. They are sent once to each node. Arrays among them are read-only there.
            packages: further packages that must have the same versions on all nodes.
            preflight: `preflight(*common)` is called once on each node, before its first item. A `UserError` refuses
                the node and ends the work.
            joined: receives the name of each node that may begin, and what `preflight` returned there. It may raise.
            suits: says how a node works, by its resources as Ray names them and by what `preflight` returned there.
                None is for a node that gets no work. If no node suits, items are left over, and the caller does them.
                Where it gives an order, work begins when all nodes have answered, on the first of them.
            began: receives an item, the name of the node that it is sent to, and what `suits` said of that.
            doing: what the function does, for an error message: "Encoding".
            process: what a process is called: "encoder process".
            resumes: whether the caller can go on with `resume` after an error.
            advice: the end of the sentence for an item that ends its process each time: " and a smaller `x`".

        Yields:
            Each item with its answer and the name of the node, in the order in which they finish.

        Raises:
            UserError: there is no such cluster, it has no room, a node has other software, or the function raised one.
            WorkFailed: an item ended its process three times, no node is left, or the function failed.
            OSError: the function raised it.
            MissingPackage: ray is not installed.
        """
        from ibkd_retrieval.cluster_dispatch import Dispatcher, Work

        with connected(self.address):
            work = Work(
                function,
                given,
                called,
                common,
                packages,
                preflight,
                joined,
                suits,
                began,
                doing,
                process,
                resumes,
                advice,
            )
            yield from Dispatcher(self, work).run(items)


def load_ray() -> Any:
    """The library. Its types are not complete.

    Raises:
        MissingPackage: it is not installed.
    """
    require("ray", "`cluster`", "ray")
    # It prints to standard output what happens to its processes. What is read when it is imported mutes it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    return importlib.import_module("ray")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or with None to none. A connection that exists already is used and kept.

    Raises:
        UserError: there is no cluster at the address.
        MissingPackage: ray is not installed.
    """
    if address is None or (ray := load_ray()).is_initialized():
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        if address != "auto":
            # Ray itself waits for a minute, and then ends the process.
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, OverflowError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"No Ray cluster answers at `cluster={address!r}` ({first_line(error)}): start Ray on this machine "
            "or have it join a cluster, and give `auto` or the HOST:PORT of its head."
        ) from error
    lost = False
    try:
        yield
    except LostHead:
        lost = True
        sys.excepthook = sys.__excepthook__  # That of Ray waits for the head.
        raise
    finally:
        if not lost:
            ray.shutdown()


_HEAD_PATIENCE = 40.0
"""Seconds to wait for a head that does not answer. Ray ends the process after 60."""


class LostHead(WorkFailed):
    """The head of a cluster does not answer any more. To disconnect from it ends the process without a word."""


class Nodes:
    """The nodes of the cluster that this process is connected to."""

    def __init__(self) -> None:
        self._ray = load_ray()
        self._head: str = self._ray.get_runtime_context().gcs_address
        self._answered = time.monotonic()
        self._known: dict[str, dict[str, Any]] = {}

    def living(self, kept: str) -> dict[str, dict[str, Any]]:
        """The living nodes as Ray describes them, by id. They stay as they were while the head does not answer.

        Args:
            kept: what becomes of the finished work, and what to do, for the error message.

        Raises:
            LostHead: the head has not answered for 40 seconds.
        """
        if not self._answers():
            if time.monotonic() - self._answered > _HEAD_PATIENCE:
                raise LostHead(
                    f"The head of the cluster ({self._head}) does not answer any more: {kept} on another cluster."
                )
            return self._known
        self._answered = time.monotonic()
        self._known = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        return self._known

    def _answers(self) -> bool:
        host, _, port = self._head.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            return False
        return True


def places(cluster: Cluster, resources: dict[str, float]) -> int:
    """The processes that a node has room for, by its resources as Ray names them."""
    found = int(resources.get("CPU", 0) // cluster.cpus)
    return min(found, int(resources.get("GPU", 0) // cluster.gpus)) if cluster.gpus else found


def no_room(cluster: Cluster) -> UserError:
    """The error that no node has room for a process."""
    wanted = f"{cluster.cpus} CPUs" + (f" and {cluster.gpus} GPUs" if cluster.gpus else "")
    there = [
        f"{node['NodeManagerHostname']} {node['Resources'].get('CPU', 0):.0f} CPUs"
        f" and {node['Resources'].get('GPU', 0):.0f} GPUs"
        for node in load_ray().nodes()
        if node["Alive"]
    ]
    return UserError(
        f"No node of the cluster has {wanted} for a process ({', '.join(there)}): lower `worker_cpus`, or add nodes."
    )


def on_node(node: str, function: Any, cpus: float = 0, gpus: int = 0) -> Any:
    """A remote function of Ray that runs on one node."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    place = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return function.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)


def check_sizes(workers: int | None, worker_cpus: int | None) -> None:
    """Check how many processes are asked for, and with how many cores.

    Raises:
        UserError: a number is below 1.
    """
    for name, number in (("workers", workers), ("worker_cpus", worker_cpus)):
        if number is not None and number < 1:
            raise UserError(f"`{name}` is {number}: give at least 1.")


def cannot_run(node: str, error: Any) -> UserError:
    """The error that a function of this toolkit failed on a node before it could begin."""
    return UserError(f"Node {node} cannot run this toolkit ({first_line(error.cause)}): install the same there.")


def check_software(node: str, found: dict[str, str | None], further: tuple[str, ...] = ()) -> None:
    """Compare the software of a node with that of this machine.

    Raises:
        UserError: it is another.
    """
    for package, version in software(further).items():
        if found[package] != version:
            raise UserError(
                f"Node {node} has {package} {found[package] or 'not installed'} and this machine {version}: "
                "install the same on all nodes."
            )


def software(further: tuple[str, ...] = ()) -> dict[str, str | None]:
    """The versions that decide a vector: of Python, this toolkit, and what it computes with."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in (*_PACKAGES, *further):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
