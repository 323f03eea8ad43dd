"""Encodes shards on the nodes of a Ray cluster. The files are those of one machine. Only this module imports ray."""

from __future__ import annotations

import contextlib
import importlib
import platform
import socket
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.backends.backend import require
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError, WorkFailed, first_line
from ibkd_retrieval.indexing.building.workers import EncodedShard, EncoderLoader, Failure, UnencodedShard
from ibkd_retrieval.progress import Task

_MOST_CRASHES = 3
"""How often a shard may end its process before it is given up."""
_POLL = 1.0
"""Seconds between looks at the nodes."""
_PATIENCE = 60.0
"""Seconds to wait for a node where none is left, or for a new one to answer."""
_SLOW = 3.0
"""A shard that takes this many times the median is encoded a second time elsewhere, where nothing else is left."""
_PACKAGES = ("ibkd-retrieval", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class ClusterEncoders:
    """Encoders on the nodes of a cluster.

    Ray's own retries are off. A shard of a node that died is encoded elsewhere.

    Attributes:
        address: "auto" for the cluster that this machine belongs to, or its HOST:PORT.
        load: makes the encoder of a process.
        weight_hash: the weight hash that every encoder must have.
        count: maximum number of encoders at once. None is as many as the cluster has room for.
        cpus: cores of an encoder.
        gpus: GPUs of an encoder.
    """

    address: str
    load: EncoderLoader
    weight_hash: str
    count: int | None = None
    cpus: int = 1
    gpus: int = 0

    def encode(self, shards: Iterator[UnencodedShard], task: Task) -> Iterator[EncodedShard]:
        """Encode shards from a stream. Results come in the order in which they finish.

        Raises:
            UserError: there is no such cluster, it has no room, a node has other software or another model, or a text
                cannot be read.
            WorkFailed: a shard ended its process three times, or no node is left.
            MissingPackage: ray is not installed.
        """
        with connected(self.address):
            yield from _Dispatcher(self).run(shards, task)


def _ray() -> Any:
    """The library. Its types are not complete."""
    require("ray", "`cluster`", "ray")
    return importlib.import_module("ray")


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster. A connection that exists already is used and kept.

    Raises:
        UserError: there is no cluster at the address.
        MissingPackage: ray is not installed.
    """
    ray = _ray()
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


class _Job(NamedTuple):
    shard: UnencodedShard
    node: str
    since: float


class _Encoded(NamedTuple):
    vectors: NDArray[np.float32]
    seconds: float
    weight_hash: str


class _Dispatcher:
    """Hands shards to the free places of the nodes, and takes the results."""

    def __init__(self, encoders: ClusterEncoders) -> None:
        self._ray = ray = _ray()
        self._encoders = encoders
        # Without `max_calls=0`, a process with a GPU ends after each task, and loads the model again for the next.
        self._encode, self._software = (ray.remote(max_retries=0, max_calls=0)(each) for each in (_encode, software))
        self._names: dict[str, str] = {}
        """Names of the living nodes, by id."""
        self._free: list[str] = []
        """The node of each free place."""
        self._running: dict[Any, _Job] = {}
        self._again: deque[UnencodedShard] = deque()
        self._crashes: Counter[int] = Counter()
        self._seconds: list[float] = []
        self._looked = 0.0

    def run(self, shards: Iterator[UnencodedShard], task: Task) -> Iterator[EncodedShard]:
        self._look_at_nodes()
        if not self._free:
            raise self._no_room()
        alive = time.monotonic()
        while True:
            while self._free and (shard := self._next(shards)) is not None:
                self._start(shard)
            if not self._running and not self._again:
                return
            if self._running:
                alive = time.monotonic()
                finished, _ = self._ray.wait(list(self._running), timeout=_POLL)
                for reference in finished:
                    encoded = self._finished(reference)
                    if encoded is not None:
                        task.advance(len(encoded.shard.documents))
                        yield encoded
                        del encoded
            elif time.monotonic() - alive > _PATIENCE:
                raise WorkFailed(
                    "No node of the cluster is left: what is finished is kept; go on with `resume` when there are some."
                )
            else:
                time.sleep(_POLL)
            if time.monotonic() - self._looked > _POLL:
                self._look_at_nodes()

    def _next(self, shards: Iterator[UnencodedShard]) -> UnencodedShard | None:
        if self._again:
            return self._again.popleft()
        shard = next(shards, None)
        if shard is not None or not self._seconds:
            return shard
        # Nothing is left to begin. What is slow may be on a node that hardly works.
        late = time.monotonic() - _SLOW * statistics.median(self._seconds) - _POLL
        often = Counter(job.shard.number for job in self._running.values())
        slow = [job for job in self._running.values() if job.since < late and often[job.shard.number] == 1]
        return min(slow, key=lambda job: job.since).shard if slow else None

    def _start(self, shard: UnencodedShard) -> None:
        node = self._free.pop(0)
        texts = [document.content for document in shard.documents]
        encode = self._on(node, self._encode, self._encoders.cpus, self._encoders.gpus)
        reference = encode.remote(self._encoders.load, texts)
        self._running[reference] = _Job(shard, node, time.monotonic())

    def _on(self, node: str, function: Any, cpus: float, gpus: int) -> Any:
        """A function that runs on one node."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        place = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        return function.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)

    def _finished(self, reference: Any) -> EncodedShard | None:
        job = self._running.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._crashed(job, error)
            return None
        self._free.append(job.node)
        if isinstance(answer, Failure):
            raise answer.at(f"On node {self._names.get(job.node, job.node)}").error()
        if answer.weight_hash != self._encoders.weight_hash:
            raise UserError(
                f"Node {self._names[job.node]} has another model under the name of this one: give all nodes the same "
                "files, in a folder that they share."
            )
        self._seconds.append(time.monotonic() - job.since)
        self._drop_twins(job.shard.number)
        return EncodedShard(job.shard, answer.vectors, answer.seconds)

    def _drop_twins(self, number: int) -> None:
        """Stop what else encodes the same shard."""
        for reference, job in list(self._running.items()):
            if job.shard.number == number:
                self._ray.cancel(reference, force=True)
                del self._running[reference]
                self._free.append(job.node)

    def _crashed(self, job: _Job, error: Exception) -> None:
        """Have a shard encoded again, unless its documents are to blame.

        Raises:
            WorkFailed: they are, or the node cannot run the function at all.
        """
        errors = self._ray.exceptions
        node = self._names.get(job.node, job.node)
        if isinstance(error, errors.RayTaskError):
            raise WorkFailed(f"Encoding failed on node {node}: {first_line(error.cause)}") from error
        self._look_at_nodes()
        if job.node in self._names:
            self._free.append(job.node)
            if not isinstance(error, errors.NodeDiedError | errors.TaskUnschedulableError):
                self._crashes[job.shard.number] += 1
        if self._crashes[job.shard.number] >= _MOST_CRASHES:
            documents = job.shard.documents
            how = "took too much memory in" if isinstance(error, errors.OutOfMemoryError) else "ended"
            raise WorkFailed(
                f"Shard {job.shard.number} (documents {documents[0].doc_id!r} to {documents[-1].doc_id!r}) {how} its "
                f"encoder process {_MOST_CRASHES} times, the last time on node {node}: what is finished is kept; leave "
                "out what is wrong with these documents, or go on with `resume` and a smaller `batch_tokens`."
            )
        self._take_back(job.shard)

    def _take_back(self, shard: UnencodedShard) -> None:
        """Have a shard encoded again, unless its twin is being encoded."""
        if all(other.shard.number != shard.number for other in self._running.values()):
            self._again.append(shard)

    def _look_at_nodes(self) -> None:
        """Give the places of new nodes free, and have the shards of dead ones encoded elsewhere."""
        self._looked = time.monotonic()
        living = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        for node in set(self._names) - set(living):
            del self._names[node]
            self._free = [each for each in self._free if each != node]
            for reference, job in list(self._running.items()):
                if job.node == node:
                    del self._running[reference]
                    self._take_back(job.shard)
        for node in set(living) - set(self._names):
            places = self._places(living[node]["Resources"])
            if places and self._is_fit(node, living[node]["NodeManagerHostname"]):
                self._names[node] = f"{living[node]['NodeManagerHostname']} ({node[:8]})"
                self._free += [node] * places

    def _places(self, resources: dict[str, float]) -> int:
        places = int(resources.get("CPU", 0) // self._encoders.cpus)
        if self._encoders.gpus:
            places = min(places, int(resources.get("GPU", 0) // self._encoders.gpus))
        if self._encoders.count is not None:
            places = min(places, self._encoders.count - len(self._free) - len(self._running))
        return max(places, 0)

    def _is_fit(self, node: str, name: str) -> bool:
        """Whether a node answers, with the same software.

        Raises:
            UserError: its software is another.
        """
        try:
            found = self._ray.get(self._on(node, self._software, 0, 0).remote(), timeout=_PATIENCE)
        except self._ray.exceptions.RayTaskError as error:
            raise UserError(
                f"Node {name} cannot run this toolkit ({first_line(error.cause)}): install the same there."
            ) from error
        except self._ray.exceptions.RayError:  # It died, or does not answer.
            return False
        ours = software()
        for package, version in ours.items():
            if found[package] != version:
                raise UserError(
                    f"Node {name} has {package} {found[package] or 'not installed'} and this machine {version}: "
                    "install the same on all nodes."
                )
        return True

    def _no_room(self) -> UserError:
        wanted = f"{self._encoders.cpus} CPUs" + (f" and {self._encoders.gpus} GPUs" if self._encoders.gpus else "")
        there = [
            f"{node['NodeManagerHostname']} {node['Resources'].get('CPU', 0):.0f} CPUs"
            f" and {node['Resources'].get('GPU', 0):.0f} GPUs"
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return UserError(
            f"No node of the cluster has {wanted} for an encoder ({', '.join(there)}): lower `worker_cpus`, or add "
            "nodes."
        )


def software() -> dict[str, str | None]:
    """The versions that decide a vector: of Python, this toolkit, and what it computes with."""
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


_loaded: dict[EncoderLoader, TextEncoder] = {}
"""The encoder of this process, kept for its next shard."""


def _encode(load: EncoderLoader, texts: Sequence[str]) -> _Encoded | Failure:
    """Encode the texts of a shard in a process of the cluster."""
    try:
        if load not in _loaded:
            _loaded.clear()
            _loaded[load] = load(0, 1)
        encoder = _loaded[load]
        start = time.perf_counter()
        vectors = np.ascontiguousarray(encoder.encode(texts, "document"), dtype=np.float32)
        return _Encoded(vectors, time.perf_counter() - start, encoder.weight_hash)
    except Exception as error:  # Any library can raise here. The driver turns it into a message.
        return Failure.of(error)
