"""Runs functions on the nodes of a Ray cluster. Only this module imports ray."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import socket
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic, NamedTuple, TypeVar

from ibkd_retrieval.errors import Failure, UserError, WorkFailed, first_line, require

T = TypeVar("T")
A = TypeVar("A")

_MOST_CRASHES = 3
"""How often an item may end its process before it is given up."""
_POLL = 1.0
"""Seconds between looks at the nodes."""
_PATIENCE = 60.0
"""Seconds to wait where no node is left, or none has answered yet."""
_SLOW = 3.0
"""An item that takes this many times the median is done a second time elsewhere, where nothing else is left."""
_PACKAGES = ("ibkd-retrieval", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


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
        with connected(self.address):
            work = _Work(function, given, called, common, packages, preflight, joined, doing, process, resumes, advice)
            yield from _Dispatcher(self, work).run(items)


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
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster. A connection that exists already is used and kept.

    Raises:
        UserError: there is no cluster at the address.
        MissingPackage: ray is not installed.
    """
    ray = load_ray()
    if ray.is_initialized():
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
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Work(Generic[T, A]):
    function: Callable[..., A]
    given: Callable[[T], tuple[Any, ...]]
    called: Callable[[T], str]
    common: tuple[Any, ...]
    packages: tuple[str, ...]
    preflight: Callable[..., Any] | None
    joined: Callable[[str, Any], None]
    doing: str
    process: str
    resumes: bool
    advice: str

    def kept(self) -> str:
        """What becomes of the finished items, and what to do."""
        return "what is finished is kept; go on with `resume`" if self.resumes else "run this again"


class _Job(NamedTuple):
    number: int
    item: Any
    node: str
    since: float


class _Dispatcher(Generic[T, A]):
    """Hands items to the free places of the nodes, and takes the answers."""

    def __init__(self, cluster: Cluster, work: _Work[T, A]) -> None:
        self._ray = ray = load_ray()
        self._cluster, self._work = cluster, work
        # Without `max_calls=0`, a process with a GPU ends after each task, and loads the model again for the next.
        self._call, self._inspect = (ray.remote(max_retries=0, max_calls=0)(each) for each in (_call, _inspect))
        self._common = [ray.put(each) for each in work.common]
        self._names: dict[str, str] = {}
        """Names of the living nodes that have the same software, by id."""
        self._asked: dict[Any, str] = {}
        """Nodes that were asked for a preflight, by the reference of the answer."""
        self._free: list[str] = []
        """The node of each free place."""
        self._running: dict[Any, _Job] = {}
        self._taken = 0
        self._ended = False
        self._again: deque[tuple[int, T]] = deque()
        self._crashes: defaultdict[int, list[str]] = defaultdict(list)
        """Nodes on which an item ended its process."""
        self._seconds: list[float] = []
        self._looked = 0.0

    def run(self, items: Iterator[T]) -> Iterator[tuple[T, A, str]]:
        try:
            self._look_at_nodes()
            if not self._asked:
                raise no_room(self._cluster)
            yield from self._run(items)
        finally:
            for reference in (*self._running, *self._asked):
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(reference, force=True)

    def _run(self, items: Iterator[T]) -> Iterator[tuple[T, A, str]]:
        alive = time.monotonic()
        while True:
            while self._free and (following := self._next(items)) is not None:
                self._start(*following)
                del following
            if self._ended and not self._running and not self._again:
                return
            if self._running:
                alive = time.monotonic()
            elif time.monotonic() - alive > _PATIENCE:
                raise WorkFailed(f"No node of the cluster is left: {self._work.kept()} when there are some.")
            for reference in self._awaited():
                if reference in self._asked:
                    self._admit(reference)
                elif (done := self._finished(self._running.pop(reference), reference)) is not None:
                    yield done
                    del done
            if time.monotonic() - self._looked > _POLL:
                self._look_at_nodes()

    def _awaited(self) -> list[Any]:
        """References that are answered, after a while at most."""
        references = [*self._running, *self._asked]
        if references:
            return list(self._ray.wait(references, timeout=_POLL)[0])
        time.sleep(_POLL)
        return []

    def _next(self, items: Iterator[T]) -> tuple[int, T] | None:
        if self._again:
            return self._again.popleft()
        if not self._ended:
            for item in items:
                self._taken += 1
                return self._taken, item
            self._ended = True
        if not self._seconds:
            return None
        # Nothing is left to begin. What is slow may be on a node that hardly works.
        late = time.monotonic() - _SLOW * statistics.median(self._seconds) - _POLL
        jobs = list(self._running.values())
        slow = [job for job in jobs if job.since < late and sum(job.number == other.number for other in jobs) == 1]
        first = min(slow, key=lambda job: job.since, default=None)
        return first and (first.number, first.item)

    def _start(self, number: int, item: T) -> None:
        node = self._free.pop(0)
        call = on_node(node, self._call, self._cluster.cpus, self._cluster.gpus)
        reference = call.remote(self._work.function, self._work.doing, *self._common, *self._work.given(item))
        self._running[reference] = _Job(number, item, node, time.monotonic())

    def _finished(self, job: _Job, reference: Any) -> tuple[T, A, str] | None:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._crashed(job, error)
            return None
        self._free.append(job.node)
        name = self._names.get(job.node, job.node)
        if isinstance(answer, Failure):
            raise answer.at(f"On node {name}").error()
        self._seconds.append(time.monotonic() - job.since)
        self._drop_twins(job.number)
        return job.item, answer, name

    def _drop_twins(self, number: int) -> None:
        """Stop what else does the same item."""
        for reference, job in list(self._running.items()):
            if job.number == number:
                self._ray.cancel(reference, force=True)
                del self._running[reference]
                self._free.append(job.node)

    def _crashed(self, job: _Job, error: Exception) -> None:
        """Have an item done again, unless the item is to blame.

        Raises:
            WorkFailed: it is, or the node cannot run the function at all.
        """
        errors = self._ray.exceptions
        node = self._names.get(job.node, job.node)
        if isinstance(error, errors.RayTaskError):
            raise WorkFailed(f"{self._work.doing} failed on node {node}: {first_line(error.cause)}") from error
        self._look_at_nodes()
        if job.node in self._names:
            self._free.append(job.node)
            if not isinstance(error, errors.NodeDiedError | errors.TaskUnschedulableError):
                self._crashes[job.number].append(job.node)
        # A process may end a moment before its node is known to be dead.
        if sum(each in self._names for each in self._crashes[job.number]) >= _MOST_CRASHES:
            how = "took too much memory in" if isinstance(error, errors.OutOfMemoryError) else "ended"
            raise WorkFailed(
                f"{self._work.called(job.item)} {how} its {self._work.process} {_MOST_CRASHES} times, the last time on "
                f"node {node}: {self._work.kept()}{self._work.advice}."
            )
        self._take_back(job)

    def _take_back(self, job: _Job) -> None:
        """Have an item done again, unless its twin is running."""
        if all(other.number != job.number for other in self._running.values()):
            self._again.append((job.number, job.item))

    def _look_at_nodes(self) -> None:
        """Ask new nodes for a preflight, and have the items of dead ones done elsewhere."""
        self._looked = time.monotonic()
        living = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        for node in set(self._names) - set(living):
            del self._names[node]
            self._free = [each for each in self._free if each != node]
            for reference, job in list(self._running.items()):
                if job.node == node:
                    del self._running[reference]
                    self._take_back(job)
        self._asked = {reference: node for reference, node in self._asked.items() if node in living}
        for node in set(living) - set(self._names) - set(self._asked.values()):
            if self._places(living[node]["Resources"]):
                inspect = on_node(node, self._inspect)
                reference = inspect.remote(self._work.packages, self._work.preflight, *self._common)
                self._asked[reference] = node

    def _places(self, resources: dict[str, float]) -> int:
        found = places(self._cluster, resources)
        if self._cluster.count is not None:
            found = min(found, self._cluster.count - len(self._free) - len(self._running))
        return max(found, 0)

    def _admit(self, reference: Any) -> None:
        """Give the places of a node free that passed the preflight.

        Raises:
            UserError: it did not, or its software is another.
        """
        node = self._asked.pop(reference)
        known = {each["NodeID"]: each for each in self._ray.nodes() if each["Alive"]}.get(node)
        if known is None:
            return
        name = known["NodeManagerHostname"]
        try:
            found, report = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise UserError(
                f"Node {name} cannot run this toolkit ({first_line(error.cause)}): install the same there."
            ) from error
        except self._ray.exceptions.RayError:  # It died, or has no room for a process.
            return
        check_software(name, found, self._work.packages)
        name = f"{name} ({node[:8]})"
        if isinstance(report, Failure):
            raise report.at(f"On node {name}").error()
        room = self._places(known["Resources"])
        if room:
            self._work.joined(name, report)
            self._names[node] = name
            self._free += [node] * room


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


def _inspect(
    packages: tuple[str, ...], preflight: Callable[..., Any] | None, *common: Any
) -> tuple[dict[str, str | None], Any]:
    """What a node has, before it gets work. Its preflight waits for the same software."""
    return software(packages), None if preflight is None else _call(preflight, "The preflight", *common)


def _call(function: Callable[..., A], doing: str, *arguments: Any) -> A | Failure:
    """Call a function in a process of the cluster."""
    try:
        return function(*arguments)
    except Exception as error:  # Any library can raise here. The driver turns it into a message.
        return Failure.of(error, doing)
