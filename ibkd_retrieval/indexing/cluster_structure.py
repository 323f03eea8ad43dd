"""Makes a search structure on the nodes of a cluster: they read what it is trained on, train it and fill its parts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.cluster import Cluster, Suited
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import gpu_count, is_for_gpu, load_faiss, read_structure_file
from ibkd_retrieval.indexing.families.parts import PartPlan, fill_part, filled_part
from ibkd_retrieval.indexing.families.training import TrainingPlan, train_here, trained
from ibkd_retrieval.indexing.format.lines import save_array
from ibkd_retrieval.indexing.format.manifest import PartEntry
from ibkd_retrieval.indexing.format.staging import StagedFile, Staging, staging_for
from ibkd_retrieval.indexing.vectors import VectorSource
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import SILENT, Progress

_ROWS_AT_ONCE = 1 << 14
"""Vectors that a node reads into one file."""


class Source(NamedTuple):
    """What the nodes need to know of an index.

    Attributes:
        staging: where they write.
        counts: documents in each shard.
        dim: length of a vector.
        faiss: the version of faiss that they must have.
    """

    staging: Staging
    counts: tuple[int, ...]
    dim: int
    faiss: str


class Seen(NamedTuple):
    """What a node has.

    Attributes:
        folder: whether it sees the index folder.
        for_gpu: whether its faiss can use GPUs.
    """

    folder: bool
    for_gpu: bool


def inspect(source: Source) -> Seen:
    """Inspect this machine, before it works on the structure.

    Raises:
        UserError: its faiss is of another version.
    """
    found = load_faiss().__version__
    if found != source.faiss:
        raise UserError(
            f"faiss is of version {found} there and {source.faiss} on this machine: install the same on all nodes."
        )
    return Seen(source.staging.is_visible(), is_for_gpu())


def read_rows(source: Source, number: int, rows: NDArray[np.int64]) -> StagedFile | None:
    """Read vectors by row, and write them where they are staged. None where this machine may not write."""
    vectors = ShardVectors(source.staging.folder, source.counts, source.dim).read(rows)
    return source.staging.write(number, lambda file: save_array(file, vectors))


def train(source: Source, plan: TrainingPlan, files: Sequence[Path], device: str, threads: int) -> StagedFile | None:
    """Train a structure on vectors that are staged, and write it there. None where this machine may not write.

    Raises:
        UserError: a vector is not finite, or faiss cannot train on that many.
    """
    with _computing_on(threads):
        index = trained(replace(plan, device=device), _joined(files, plan.dim), SILENT)
    return source.staging.write(0, partial(_save_structure, index))


def fill(source: Source, plan: PartPlan) -> StagedFile | None:
    """Fill a part of a structure, and write it where it is staged. None where this machine may not write."""
    index = filled_part(plan)
    return source.staging.write(plan.number, partial(_save_structure, index))


def _save_structure(index: Any, file: IO[bytes]) -> None:
    faiss = load_faiss()
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))


def _joined(files: Sequence[Path], dim: int) -> NDArray[np.float32]:
    parts = [np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
    whole = np.empty((sum(map(len, parts)), dim), dtype=np.float32)
    return np.concatenate(parts, out=whole)


@contextmanager
def _computing_on(threads: int) -> Iterator[None]:
    """A context in which faiss and torch compute on a number of threads, whatever Ray has set."""
    import torch

    faiss = load_faiss()
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before[0])
        torch.set_num_threads(before[1])


def wants_gpu(device: str) -> bool:
    """Whether training takes a GPU if there is one."""
    return device == "auto" or device.startswith("cuda")


def _if_seen(resources: dict[str, float], seen: Seen) -> Suited | None:
    return Suited() if seen.folder else None


def _suits_training(device: str, resources: dict[str, float], seen: Seen) -> Suited | None:
    """A node with a GPU for faiss suits best, and then one with many CPUs. It trains on all of them."""
    if not seen.folder:
        return None
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    gpu = wants_gpu(device) and seen.for_gpu and gpus > 0
    return Suited((gpu, cpus), int(gpu), ("auto" if gpu else "cpu", cpus))


@dataclass(frozen=True)
class NodesMake:
    """Makes a structure on the nodes of a cluster that see the index folder, and here what none of them does.

    Attributes:
        cluster: the cluster.
        folder: the index folder.
        counts: documents in each shard.
        progress: receives a line that says which machine trains.
    """

    cluster: Cluster
    folder: Path
    counts: tuple[int, ...]
    progress: Progress = SILENT

    def train(self, plan: TrainingPlan, vectors: VectorSource, progress: Progress) -> Any:
        """Train a structure (`families.training.Training`). Nodes read the vectors, and the most suitable one trains.

        Raises:
            UserError: a vector is not finite, faiss cannot train on that many, or a node has another faiss.
            WorkFailed: as `Cluster.run` says.
            OSError: the disk is full or fails.
        """
        if wants_gpu(plan.device) and gpu_count():
            self.progress.say("This machine trains the structure on its GPU.")
            return train_here(plan, vectors, progress)
        with self._source(plan.dim) as source:
            files = self._read(plan, source, vectors)
            made = self._train(plan, source, files) if files else None
            if made is not None:
                return read_structure_file(made.path)
            self.progress.say("This machine trains the structure, because no node writes into the index folder.")
            return trained(plan, _joined(files, plan.dim), progress) if files else train_here(plan, vectors, progress)

    def fill(self, plans: Sequence[PartPlan]) -> Iterator[PartEntry]:
        """Fill parts (`families.parts.FillParts`). What no node fills is filled here."""
        left = {plan.number: plan for plan in plans}
        with (
            self._source(plans[0].dim) as source,
            self._staged(
                fill,
                plans,
                source,
                count=self.cluster.count,
                given=lambda plan: (plan,),
                called=lambda plan: f"Part {plan.number} (shards {plan.shards[0]} to {plan.shards[1] - 1})",
                doing="Adding vectors",
            ) as running,
        ):
            for plan, file, _ in running:
                if file is not None:
                    file.move_to(self.folder / plan.entry.file)
                    yield left.pop(plan.number).entry
        yield from map(fill_part, left.values())

    @contextmanager
    def _source(self, dim: int) -> Iterator[Source]:
        with staging_for(self.folder, "float32") as staging:
            yield Source(staging.open(), self.counts, dim, load_faiss().__version__)

    def _read(self, plan: TrainingPlan, source: Source, vectors: VectorSource) -> list[Path]:
        """Have the vectors to train on read into files. Without a node that can, there are none."""
        rows = plan.rows(vectors.count)
        pieces = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]
        with self._staged(
            read_rows,
            range(len(pieces)),
            source,
            count=self.cluster.count,
            given=lambda number: (number, pieces[number]),
            called=lambda number: f"Block {number} of the vectors to train on",
            doing="Reading vectors",
        ) as running:
            found = {number: file.path for number, file, _ in running if file is not None}
        for number in range(len(pieces)) if found else ():
            if number not in found and (file := read_rows(source, number, pieces[number])) is not None:
                found[number] = file.path
        return [found[number] for number in sorted(found)]

    def _train(self, plan: TrainingPlan, source: Source, files: list[Path]) -> StagedFile | None:
        with self._staged(
            train,
            [plan],
            source,
            given=lambda plan: (plan, files),
            called=lambda plan: f"The training of {plan.factory}",
            count=None,  # The most suitable node is among all.
            suits=partial(_suits_training, plan.device),
            began=lambda plan, node, how: self.progress.say(
                f"Node {node} trains the structure on {'a GPU' if how.gpus else f'{how.arguments[1]} CPUs'}."
            ),
            doing="Training",
        ) as running:
            return next((file for _, file, _ in running), None)

    def _staged(
        self,
        function: Callable[..., StagedFile | None],
        items: Iterable[Any],
        source: Source,
        *,
        count: int | None,
        suits: Callable[[dict[str, float], Seen], Suited | None] = _if_seen,
        **how: Any,
    ) -> closing[Generator[tuple[Any, StagedFile | None, str], None, None]]:
        """Run a function that stages files on the nodes that suit (`Cluster.run`). It gets the source first."""
        cluster = replace(self.cluster, count=count, gpus=0)  # Who trains on a GPU says so in `suits`.
        running = cluster.run(function, iter(items), common=(source,), preflight=inspect, suits=suits, **how)
        return closing(running)
