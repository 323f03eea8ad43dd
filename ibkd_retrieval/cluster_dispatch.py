"""Hands items to the nodes of a cluster and takes the answers, whatever nodes and processes die meanwhile."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from ibkd_retrieval.cluster import (
    KEPT,
    Cluster,
    Nodes,
    Suited,
    cannot_run,
    check_software,
    load_ray,
    no_room,
    on_node,
    places,
    software,
)
from ibkd_retrieval.errors import Failure, WorkFailed, first_line

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


@dataclass(frozen=True)
class Work(Generic[T, A]):
    """What a cluster is asked to do. The fields are the arguments of `Cluster.run`."""

    function: Callable[..., A]
    given: Callable[[T], tuple[Any, ...]]
    called: Callable[[T], str]
    common: tuple[Any, ...]
    packages: tuple[str, ...]
    preflight: Callable[..., Any] | None
    joined: Callable[[str, Any], None]
    suits: Callable[[dict[str, float], Any], Suited | None] | None
    began: Callable[[T, str, Suited], None]
    doing: str
    process: str
    resumes: bool
    advice: str

    def kept(self) -> str:
        """What becomes of the finished items, and what to do."""
        return KEPT if self.resumes else "run this again"


class _Job(NamedTuple):
    number: int
    item: Any
    node: str
    since: float


class Dispatcher(Generic[T, A]):
    """Hands items to the free places of the nodes, and takes the answers."""

    def __init__(self, cluster: Cluster, work: Work[T, A]) -> None:
        self._ray = ray = load_ray()
        self._cluster, self._work, self._nodes = cluster, work, Nodes()
        # Without `max_calls=0`, a process with a GPU ends after each task, and loads the model again for the next.
        self._call, self._inspect = (ray.remote(max_retries=0, max_calls=0)(each) for each in (_call, _inspect))
        self._common = [ray.put(each) for each in work.common]
        self._names: dict[str, str] = {}
        """Names of the living nodes that have the same software, by id."""
        self._suited: dict[str, Suited] = {}
        """How each of them works. Those that do not suit are left out."""
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
        """Do the work for each item, as `Cluster.run` says."""
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
            while self._free and not self._is_early() and (following := self._next(items)) is not None:
                self._start(*following)
                del following
            if not self._running and ((self._ended and not self._again) or self._none_suits()):
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

    def _is_early(self) -> bool:
        """Whether a node that suits better may still answer."""
        return bool(self._asked) and any(how.order is not None for how in self._suited.values())

    def _none_suits(self) -> bool:
        """Whether all living nodes have answered, and none suits."""
        return bool(self._names) and not self._asked and not self._suited

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
        self._free.sort(key=lambda node: self._suited[node].order or (), reverse=True)
        node = self._free.pop(0)
        how = self._suited[node]
        call = on_node(node, self._call, self._cluster.cpus, how.gpus)
        given = (*self._work.given(item), *how.arguments)
        self._work.began(item, self._names[node], how)
        reference = call.remote(self._work.function, self._work.doing, *self._common, *given)
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
        living = self._nodes.living(self._work.kept())
        for node in set(self._names) - set(living):
            del self._names[node]
            self._suited.pop(node, None)
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
        known = self._nodes.living(self._work.kept()).get(node)
        if known is None:
            return
        name = known["NodeManagerHostname"]
        try:
            found, report = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise cannot_run(name, error) from error
        except self._ray.exceptions.RayError:  # It died, or has no room for a process.
            return
        check_software(name, found, self._work.packages)
        name = f"{name} ({node[:8]})"
        if isinstance(report, Failure):
            raise report.at(f"On node {name}").error()
        room = self._places(known["Resources"])
        if not room:
            return
        self._work.joined(name, report)
        self._names[node] = name
        suits, how = self._work.suits, Suited(gpus=self._cluster.gpus)
        if suits is not None and (found := suits(known["Resources"], report)) is not None:
            how = found
        elif suits is not None:
            return
        self._suited[node] = how
        self._free += [node] * room


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
