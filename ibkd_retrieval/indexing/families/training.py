"""Trains a structure on some of the vectors, and fills it with all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import make_folder, write_json
from ibkd_retrieval.indexing.faiss_binding import (
    blas_threshold,
    load_faiss,
    read_structure_file,
    training_on,
    write_structure,
)
from ibkd_retrieval.indexing.families.centroids import place_centroids
from ibkd_retrieval.indexing.families.parts import Adding, add_whole, check_finite
from ibkd_retrieval.indexing.format.layout import TRAINED, TRAINED_FROM
from ibkd_retrieval.indexing.vectors import VectorSource, sample_rows
from ibkd_retrieval.json_io import parse
from ibkd_retrieval.progress import Progress


@dataclass(frozen=True)
class TrainingPlan:
    """How a structure is trained. The same plan and vectors give the same structure, on as many threads.

    Attributes:
        factory: the structure as a faiss factory string.
        dim: length of a vector.
        sample: maximum number of vectors to train on.
        seed: random seed for the sample and for the initial centroids.
        device: where k-means runs (`faiss_binding.training_on`).
    """

    factory: str
    dim: int
    sample: int
    seed: int
    device: str = "cpu"

    def rows(self, count: int) -> NDArray[np.int64]:
        """The rows to train on, in ascending order, drawn at random from `count`."""
        return sample_rows(count, self.sample, np.random.default_rng(self.seed))


Training = Callable[[TrainingPlan, VectorSource, Progress], Any]
"""Trains a faiss index, and gives it."""


def train_here(plan: TrainingPlan, vectors: VectorSource, progress: Progress) -> Any:
    """Train a faiss index in this process.

    Raises:
        UserError: a vector is not finite, or faiss cannot train on that many.
    """
    return trained(plan, vectors.gather(plan.rows(vectors.count)), progress)


def trained(plan: TrainingPlan, training: NDArray[np.float32], progress: Progress) -> Any:
    """Train a faiss index on vectors [n, dim].

    Raises:
        UserError: a vector is not finite, or faiss cannot train on that many.
    """
    check_finite(training)
    index = parsed(plan.factory, plan.dim)
    try:
        with training_on(plan.device, index, progress) as on_gpu:
            if not on_gpu:
                place_centroids(index, training, plan.seed)
            index.train(training)
    except RuntimeError as error:
        raise UserError(
            f"faiss cannot train {plan.factory!r} on {len(training):,} vectors ({reason(error)}): "
            "ask for fewer lists or smaller codes, or take `type='flat'`."
        ) from error
    return index


@dataclass(frozen=True)
class TrainedOnce:
    """Trains a structure, and keeps it in an index folder until its parts are filled: `resume` does not train again.

    Attributes:
        folder: the index folder.
        vectors: the checksums of the files of all vectors.
        train: trains it.
    """

    folder: Path
    vectors: tuple[str, ...]
    train: Training = train_here

    def __call__(self, plan: TrainingPlan, vectors: VectorSource, progress: Progress) -> Any:
        """Train a structure, unless it is there (`Training`)."""
        path, mark = self.folder / TRAINED, self.folder / TRAINED_FROM
        every = json.dumps([dataclasses.asdict(plan), load_faiss().__version__, self.vectors])
        source = {"trained_from": hashlib.sha256(every.encode()).hexdigest()}
        if _is_marked(mark, source):
            progress.say("The structure was trained before: its parts are filled.")
            return read_structure_file(path)
        make_folder(path.parent)
        mark.unlink(missing_ok=True)
        index = self.train(plan, vectors, progress)
        write_structure(index, path)
        write_json(mark, source)
        return index


def _is_marked(mark: Path, source: dict[str, str]) -> bool:
    try:
        return bool(parse(mark.read_bytes()) == source)
    except (OSError, ValueError):
        return False


class Making(NamedTuple):
    """Where a structure is made.

    Attributes:
        train: trains it.
        add: adds the vectors to the trained structure.
    """

    train: Training = train_here
    add: Adding = add_whole


HERE = Making()
"""Everything is done in this process."""


def filled(plan: TrainingPlan, vectors: VectorSource, progress: Progress, making: Making = HERE) -> Any:
    """Train a faiss index on vectors drawn at random from all shards, and add all vectors.

    Raises:
        UserError: a vector is not finite, or faiss cannot train on that many.
    """
    index = parsed(plan.factory, vectors.dim)
    if not index.is_trained:
        with progress.task(f"Training {plan.factory}", None, "vectors") as task:
            index = making.train(plan, vectors, progress)
            task.advance(min(plan.sample, vectors.count))
    return making.add(index, vectors, progress)


def parsed(factory: str, dim: int) -> Any:
    """An empty faiss index by inner product.

    Raises:
        UserError: faiss does not understand the factory string, or its parts do not suit the dimension.
    """
    faiss = load_faiss()
    blas_threshold(dim)
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(
            f"faiss makes no index {factory!r} of vectors of {dim} dimensions ({reason(error)}): "
            "see the faiss wiki, `The index factory`."
        ) from error


def reason(error: RuntimeError) -> str:
    """What a faiss exception says, without the C++ signature and source line before it."""
    lines = str(error).strip().splitlines()
    said = lines[-1].rsplit(".cpp:", 1)[-1].split(": ", 1)[-1] if lines else "no reason given"
    return said.removeprefix("Error: ").split("' failed: ", 1)[-1].strip()
