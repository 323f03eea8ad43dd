"""Distils on a cluster: its nodes encode with the teacher, and train the student together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ibkd_retrieval.cluster import Cluster, check_sizes
from ibkd_retrieval.distill.config import RECORD, DistillConfig
from ibkd_retrieval.distill.output.folder import full_disk_error, settle_output
from ibkd_retrieval.distill.pipeline import distill_student, held, prepare_for_nodes
from ibkd_retrieval.distill.preparing import Job, open_job
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.encoders.device import choose_device
from ibkd_retrieval.encoders.endpoints.address import is_endpoint
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file
from ibkd_retrieval.progress import SILENT, Progress, Task

_EVERY = 0.5
"""Seconds between the messages of a process about its progress."""


def check_cluster(
    given: DistillConfig, cluster: str | None, workers: int | None, worker_cpus: int | None, device: str
) -> Cluster | None:
    """The cluster that is asked for, or None.

    Raises:
        UserError: options do not go together.
    """
    check_sizes(workers, worker_cpus)
    for name, value in (("workers", workers), ("worker_cpus", worker_cpus)):
        if value is not None and cluster is None:
            raise UserError(f"`{name}` is for a `cluster`: give that too.")
    if cluster is None:
        return None
    endpoints = [name for name in given.teacher if is_endpoint(name)]
    if endpoints:
        raise UserError(f"`cluster` is for a teacher that runs on its nodes, and {endpoints[0]} is an endpoint.")
    if given.vectors is not None:
        raise UserError(
            f"`cluster` is for a teacher that runs on its nodes, and {given.vectors} holds vectors that are made "
            "already: leave `cluster` out."
        )
    if given.teaching.device_map is not None:
        raise UserError("A process on a `cluster` has one GPU at most: leave `teacher_device_map` out.")
    for name in ("corpus", "queries", "dev", "pairs"):
        if not isinstance(given.value(name), str | os.PathLike | None):
            raise UserError(
                f"With `cluster`, `{name}` is a name or a path: write the texts to a file that all nodes see."
            )
    if ":" in device:
        raise UserError(f"`device={device}` is a GPU of this machine: with `cluster`, give auto, cpu or cuda.")
    if ranks.launched():
        raise UserError("`cluster` starts the processes that train: start this command by itself, not with torchrun.")
    # Where the model runs on a GPU here, each process there takes one.
    return Cluster(cluster, workers, worker_cpus or 1, int(choose_device(device).startswith("cuda")))


def distill_on_cluster(job: Job, given: DistillConfig, cluster: Cluster) -> None:
    """Distil on the nodes of a cluster. The student is that of as many processes on one machine.

    This process reads the texts, keeps the teacher's vectors and holds the output folder. The first process of the
    training writes there. If a node dies, training goes on from the last checkpoint.

    Args:
        job: the job.
        given: the configuration as the user gave it. The processes on the nodes open it again.
        cluster: the cluster.

    Raises:
        UserError: an input is invalid, there is no such cluster, or a node does not see the files.
        WorkFailed: training failed, or the disk is full.
        MissingPackage: ray is not installed.
    """
    from ibkd_retrieval.cluster_group import check_nodes, run_together

    job, where = replace(job, cluster=cluster), os.getcwd()
    with held(job), full_disk_error(job.output):
        with _probes(job) as probes:
            check_nodes(cluster, where, [where, *probes, *_local_paths(given)])
        before = _record(job.output)
        prepare_for_nodes(job)
        run = {name: getattr(job, name) for name in ("output", "cache_root", "device", "tensorboard")}
        shown = _Shown(job.progress)
        with shown.tasks:
            run_together(
                cluster,
                train,
                (given, run, where, before),
                most=_batch(job),
                heard=shown.hear,
                said=shown.lose,
                doing="Training",
            )


def train(
    given: DistillConfig, run: dict[str, Any], where: str, before: str | None, tell: Callable[[Any], None]
) -> None:
    """Train in a process of a group on the nodes (`run_together`).

    Args:
        given: the configuration as the user gave it.
        run: fields of the `Job`.
        where: the folder to which paths are relative.
        before: the hash of the record of the student that is replaced.
        tell: receives the progress.
    """
    import torch

    from ibkd_retrieval.indexing.building.workers import available_threads

    torch.set_num_threads(available_threads())
    ranks.grouped()
    os.chdir(where)
    output: Path = run["output"]
    # A node may have died when its student was finished and nobody knew.
    if ranks.text_from_first(lambda: _settled_record(output)) not in ("", before):
        return
    progress: Progress = _Told(tell) if ranks.is_first() else SILENT
    distill_student(open_job(given, progress=progress, resume=True, held=True, **run))
    ranks.wait()


def _settled_record(output: Path) -> str:
    settle_output(output)
    return _record(output) or ""


def _record(output: Path) -> str | None:
    """The hash of the record of the finished student in a folder, or None."""
    return sha256_file(output / RECORD) if (output / RECORD).is_file() else None


def _batch(job: Job) -> int:
    """The most processes that have a text of each batch."""
    config = job.config
    batches = {"distill": config.training.batch_size, "finetune": config.finetuning.batch_size}
    return batches.get(config.stage, min(batches.values()))


@contextmanager
def _probes(job: Job) -> Iterator[list[str]]:
    """New files in the folders that the nodes share, which nothing else has the names of."""
    name = f".{uuid4().hex}.{os.getpid()}.tmp"
    made = [os.path.abspath(folder / name) for folder in (job.output, job.cache_root)]
    try:
        for each in made:
            os.makedirs(os.path.dirname(each), exist_ok=True)
            Path(each).touch()
        yield made
    finally:
        for each in made:
            with suppress(OSError):
                os.unlink(each)


def _local_paths(given: DistillConfig) -> list[str]:
    """The files and folders on this machine that a configuration names."""
    data = given.data
    named = [data.corpus, data.queries, data.dev, data.pairs, given.student.model, given.finetuning.soft_labels]
    texts = [os.fspath(each) for each in (*given.teacher, *named) if isinstance(each, str | os.PathLike)]
    # A split may follow the folder.
    found = (next((path for path in (text, text.rpartition(":")[0]) if os.path.exists(path)), "") for text in texts)
    return [path for path in found if path]


class _Told:
    """Progress that is sent to another process, a few times a second."""

    def __init__(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        key = uuid4().hex
        self._tell(("task", key, title, total, unit, done))
        task = _ToldTask(self._tell, key)
        try:
            yield task
        finally:
            task.send()
            self._tell(("end", key))

    def say(self, message: str) -> None:
        self._tell(("say", message))


class _ToldTask:
    def __init__(self, tell: Callable[[Any], None], key: str) -> None:
        self._tell, self._key = tell, key
        self._count, self._note, self._sent = 0, "", time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._count, self._note = self._count + count, note or self._note
        if time.monotonic() - self._sent > _EVERY:
            self.send()

    def send(self) -> None:
        if self._count:
            self._tell(("advance", self._key, self._count, self._note))
        self._count, self._sent = 0, time.monotonic()


class _Shown:
    """Shows the progress of another process."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.tasks = progress, ExitStack()
        self._open: dict[str, tuple[ExitStack, Task]] = {}

    def lose(self, message: str) -> None:
        """Say that the process ended, and end what it had begun."""
        self.tasks.close()
        self._open.clear()
        self._progress.say(message)

    def hear(self, message: Any) -> None:
        kind, *rest = message
        if kind == "say":
            self._progress.say(*rest)
        elif kind == "task":
            key, *about = rest
            stack = self.tasks.enter_context(ExitStack())
            self._open[key] = stack, stack.enter_context(self._progress.task(*about))
        elif kind == "advance":
            self._open[rest[0]][1].advance(*rest[1:])
        else:
            self._open.pop(rest[0])[0].close()
