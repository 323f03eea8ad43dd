"""Runs a function in processes of a Ray cluster that work together, as Ray Train connects them."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ibkd_retrieval.cluster import (
    KEPT,
    Cluster,
    Nodes,
    cannot_run,
    check_software,
    connected,
    load_ray,
    no_room,
    on_node,
    places,
    software,
)
from ibkd_retrieval.errors import Failure, LostProcess, UserError, WorkFailed, first_line

_MOST_CRASHES = 3
"""How often the processes may end though every node lives."""
_PATIENCE = 60.0
"""Seconds to wait for a node in place of one that died. After that, fewer processes go on."""
_UNTIL_KNOWN = 30.0
"""Seconds after which a node that died is known to be dead."""
_POLL = 0.5
_FOREVER = 30 * 24 * 3600
"""Seconds that a process waits for the others: one may encode a corpus meanwhile."""

Tell = Callable[[Any], None]
"""Sends a message of a process to the process that started the group."""


def check_nodes(cluster: Cluster, where: str, paths: Sequence[str]) -> None:
    """Check that each node that has room for a process has the same software, and sees some paths.

    Args:
        cluster: the cluster.
        where: the folder to which paths are relative.
        paths: files and folders.

    Raises:
        UserError: there is no such cluster or no room, or a node is not fit.
        MissingPackage: ray is not installed.
    """
    with connected(cluster.address):
        ray = load_ray()
        nodes, look = _fit(cluster), ray.remote(max_retries=0)(_look)
        if not nodes:
            raise no_room(cluster)
        asked = {on_node(node["NodeID"], look).remote(where, tuple(paths)): node for node in nodes}
        for reference, node in asked.items():
            name = node["NodeManagerHostname"]
            try:
                found, missing = ray.get(reference, timeout=_PATIENCE)
            except ray.exceptions.RayTaskError as error:
                raise cannot_run(name, error) from error
            except ray.exceptions.RayError:  # It died, or does not answer.
                continue
            check_software(name, found)
            if missing:
                raise UserError(f"Node {name} does not see {missing}: put it in a folder that all nodes share.")


def _look(where: str, paths: Sequence[str]) -> tuple[dict[str, str | None], str | None]:
    """The software of a node, and the first of the paths that it does not see."""
    return software(), next((path for path in paths if not os.path.exists(os.path.join(where, path))), None)


def _fit(cluster: Cluster) -> list[dict[str, Any]]:
    """The living nodes that have room for a process."""
    return [node for node in load_ray().nodes() if node["Alive"] and places(cluster, node["Resources"])]


def run_together(
    cluster: Cluster,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    most: int,
    heard: Callable[[Any], None],
    said: Callable[[str], None],
    doing: str,
) -> None:
    """Call `function(*arguments, tell)` in several processes that are connected by `torch.distributed`.

    If one ends, all are started again, elsewhere where its node died. So the function continues what it finds.

    Args:
        cluster: the cluster. Its count is the number of processes, and None as many as there is room for.
        function: a function of a module that the nodes have.
        arguments: its arguments. They are sent to the nodes.
        most: maximum number of processes.
        heard: receives here what the processes `tell`.
        said: shows what happens to the group.
        doing: what the function does, for messages: "Training".

    Raises:
        UserError: there is no such cluster or no room, or the function raised one.
        WorkFailed: the processes ended three times though all nodes live, no node is left, or the function failed.
        OSError: the function raised it.
        MissingPackage: ray or a part of it is not installed.
    """
    with connected(cluster.address):
        _Group(cluster, function, arguments, heard, doing).run(most, said)


class _Group:
    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], arguments: tuple[Any, ...], heard: Tell, doing: str
    ) -> None:
        self._ray = load_ray()
        self._train = importlib.import_module("ray.train")
        self._torch = importlib.import_module("ray.train.torch")
        self._nodes = Nodes()
        self._cluster, self._function, self._arguments = cluster, function, arguments
        self._heard, self._doing = heard, doing
        self._failure: Failure | None = None

    def run(self, most: int, said: Callable[[str], None]) -> None:
        wanted = min(self._room(), most)
        if not wanted:
            raise no_room(self._cluster)
        count, crashes = wanted, 0
        while True:
            before = self._living()
            error = self._fitted(count)
            if self._failure is not None:
                raise self._failure.error()
            if error is None:
                return
            if not self._node_died(before):
                crashes += 1
            if crashes >= _MOST_CRASHES:
                raise WorkFailed(
                    f"{self._doing} ended its processes on the cluster {_MOST_CRASHES} times (often for lack of memory "
                    "or of free CPUs): what is finished is kept; go on with `resume`, with a smaller `memory` or fewer "
                    "`workers`."
                )
            count = self._awaited(wanted)
            if not count:
                raise WorkFailed(f"No node of the cluster is left: {KEPT} when there are some.")
            said(f"{self._doing.lower()} lost a process and goes on from its last checkpoint in {count} processes")

    def _living(self) -> set[str]:
        return set(self._nodes.living(KEPT))

    def _room(self) -> int:
        found = sum(places(self._cluster, node["Resources"]) for node in self._nodes.living(KEPT).values())
        return min(found, self._cluster.count or found)

    def _node_died(self, before: set[str]) -> bool:
        """Whether a node died. A process ends some seconds before its node is known to be dead."""
        began = time.monotonic()
        while before <= self._living():
            if time.monotonic() - began > _UNTIL_KNOWN:
                return False
            time.sleep(_POLL)
        return True

    def _awaited(self, wanted: int) -> int:
        """The room for `wanted` processes, after some patience for a node that joins."""
        began = time.monotonic()
        while (room := self._room()) < wanted and time.monotonic() - began < _PATIENCE:
            time.sleep(_POLL)
        return min(room, wanted)

    def _fitted(self, count: int) -> Exception | None:
        """Have `count` processes do the work. Returns what ended them before its end."""
        with _queue(self._ray) as queue, tempfile.TemporaryDirectory() as folder:
            trainer = self._torch.TorchTrainer(
                _member,
                train_loop_config={"work": (self._function, self._arguments, self._doing), "queue": queue},
                torch_config=self._torch.TorchConfig(self._backend(), timeout_s=_FOREVER),
                scaling_config=self._train.ScalingConfig(
                    num_workers=count,
                    use_gpu=self._cluster.gpus > 0,
                    resources_per_worker={"CPU": self._cluster.cpus, "GPU": self._cluster.gpus},
                ),
                # What is done after an error is decided here.
                run_config=self._train.RunConfig(
                    name="group",
                    storage_path=folder,
                    failure_config=self._train.FailureConfig(max_failures=0, controller_failure_limit=0),
                ),
            )
            ended: list[Exception | None] = []
            # An interrupt reaches the main thread, which only listens.
            thread = threading.Thread(target=lambda: ended.append(self._ended(trainer)), daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(_POLL)
                self._nodes.living(KEPT)
                for message in queue.get_nowait_batch(queue.qsize()):
                    self._hear(message)
            (error,) = ended
            if error is None or isinstance(error, self._train.TrainingFailedError | self._ray.exceptions.RayError):
                return error
            raise WorkFailed(f"{self._doing} cannot start on the cluster: {first_line(error)}") from error

    def _ended(self, trainer: Any) -> Exception | None:
        try:
            trainer.fit()
        except Exception as error:  # Whatever it is, the driver decides.
            return error
        return None

    def _hear(self, message: Any) -> None:
        if isinstance(message, Failure):
            self._failure = self._failure or message
        else:
            self._heard(message)

    def _backend(self) -> str:
        return "cpu:gloo,cuda:nccl" if self._cluster.gpus else "gloo"


@contextmanager
def _queue(ray: Any) -> Iterator[Any]:
    """A queue on the node of this process, so that it lives as long as this process."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    here = strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = importlib.import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        yield made
    finally:
        made.shutdown(force=True)


def _member(config: dict[str, Any]) -> None:
    """The main function of a process of a group."""
    import torch.distributed as dist

    (function, arguments, doing), queue = config["work"], config["queue"]
    try:
        function(*arguments, queue.put)
    except LostProcess:
        raise
    except Exception as error:  # Any library can raise here. The driver turns it into a message.
        if not dist.is_initialized():
            # Ray takes the group apart when another process has ended.
            raise LostProcess(f"{doing} lost a process.") from error
        queue.put(Failure.of(error, doing).at(f"On node {platform.node()}"))
        raise
