"""Inverted lists: training, adding and choosing search parameters, and the family that keeps whole vectors in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import blas_threshold, load_faiss, training_on
from ibkd_retrieval.indexing.families.centroids import place_centroids
from ibkd_retrieval.indexing.families.family import (
    FEWEST_DOCUMENTS,
    BuiltStructure,
    Family,
    Flat,
    check_range,
    check_recall,
)
from ibkd_retrieval.indexing.families.trial import TARGET_RECALL, params_to_try, trial_of, try_settings
from ibkd_retrieval.indexing.vectors import VectorSource, sample_rows
from ibkd_retrieval.progress import Progress

POINTS_PER_LIST = 39
"""Minimum number of training vectors per centroid, below which faiss warns."""

GRAPH_OVER_LISTS = 1_000_000
"""Number of documents from which an HNSW graph over the centroids finds the nearest lists."""

_ADDED_AT_ONCE = 1 << 16


class InvertedOptions(Protocol):
    """The options that all these families share.

    Attributes:
        lists: number of inverted lists. None is 4 sqrt(n), with at least 39 documents per list.
        nprobe: inverted lists visited by default. None chooses by trial.
        refine: candidates rescored exactly per result by default. None chooses by trial.
        recall: target recall@10 of the trial, against exact search.
        seed: random seed for the training sample and for the documents used as queries.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def lists(self) -> int | None: ...  # noqa: D102
    @property
    def nprobe(self) -> int | None: ...  # noqa: D102
    @property
    def refine(self) -> int | None: ...  # noqa: D102
    @property
    def recall(self) -> float: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def check_inverted(options: InvertedOptions) -> None:
    """Check the shared options.

    Raises:
        UserError: an option is out of range.
    """
    check_range(options.name, 1, lists=options.lists, nprobe=options.nprobe)
    check_range(options.name, 0, refine=options.refine, seed=options.seed)
    check_recall(options.recall)


def flat_if_few(family: Family, count: int, progress: Progress) -> Family:
    """A flat index below 1,000 documents, where quantisers cannot be trained and exact search costs nothing."""
    if count >= FEWEST_DOCUMENTS:
        return family
    progress.say(
        f"{count:,} documents are too few to train an {family.name} index (it takes {FEWEST_DOCUMENTS:,}): "
        "building a flat one, which is exact and keeps whole vectors in memory."
    )
    return Flat()


def number_of_lists(lists: int | None, count: int) -> int:
    """The number asked for, or four for each root of the documents, where the documents allow it."""
    return min(lists or int(4 * math.sqrt(count)), max(1, count // POINTS_PER_LIST))


def bytes_of_blocks(code_bytes: float, lists: int | None, count: int) -> float:
    """Bytes a vector that fast-scan codes take: lists are filled up to blocks of 32, by half of one on average."""
    return code_bytes * (1 + 16 * number_of_lists(lists, count) / max(1, count))


def bytes_of_lists(lists: int | None, count: int, dim: int) -> float:
    """Bytes per vector for ids and centroids, beside the codes."""
    return 8 + 4 * dim * number_of_lists(lists, count) / max(1, count)


def build_inverted(
    options: InvertedOptions,
    codes: str,
    vectors: VectorSource,
    progress: Progress,
    device: str,
    *,
    refinements: Sequence[int] | None = None,
    training: int = 0,
    before: str = "",
) -> BuiltStructure:
    """Train on a random sample of all shards, add, then choose nprobe and refine by trial.

    Args:
        options: the family's options.
        codes: what the lists hold, as the last part of a faiss factory string.
        vectors: the vectors to index.
        progress: receives the progress.
        device: "cuda" to train on a GPU.
        refinements: values of `refine` to try. None is the usual ones.
        training: number of training vectors that the codes need. The centroids take 64 per list.
        before: a transformation before the lists, as the first part of a factory string.
    """
    lists = number_of_lists(options.lists, vectors.count)
    if options.lists is not None and lists < options.lists:
        progress.say(
            f"{options.lists:,} inverted lists are too many for {vectors.count:,} documents: making {lists:,}."
        )
    graph = "_HNSW32" if vectors.count >= GRAPH_OVER_LISTS else ""
    factory = ",".join(part for part in (before, f"IVF{lists}{graph}", codes) if part)
    index = parsed(factory, vectors.dim)
    train(index, factory, vectors, max(64 * lists, training), options.seed, progress, device)
    add(index, vectors, progress)
    grid = params_to_try(index, SearchParams(options.nprobe, options.refine), refinements)
    trial = trial_of(vectors, None, options.seed)
    search, points = try_settings(index, vectors, trial, grid, options.recall, progress)
    return BuiltStructure(index, factory, search, points)


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


def train(
    index: Any, factory: str, vectors: VectorSource, sample: int, seed: int, progress: Progress, device: str
) -> None:
    """Train an index on up to `sample` vectors drawn at random from all shards.

    Raises:
        UserError: a vector is not finite, or faiss cannot train on that many.
    """
    if index.is_trained:
        return
    with progress.task(f"Training {factory}", None, "vectors") as task:
        training = vectors.gather(sample_rows(vectors.count, sample, np.random.default_rng(seed)))
        check_finite(training)
        try:
            with training_on(device, index, progress) as on_gpu:
                if not on_gpu:
                    place_centroids(index, training, seed)
                index.train(training)
        except RuntimeError as error:
            raise UserError(
                f"faiss cannot train {factory!r} on {len(training):,} vectors ({reason(error)}): "
                "ask for fewer lists or smaller codes, or take `type='flat'`."
            ) from error
        task.advance(len(training))


def add(index: Any, vectors: VectorSource, progress: Progress) -> None:
    """Add all vectors in order, in blocks.

    Raises:
        UserError: a vector is not finite.
    """
    with progress.task("Adding vectors", vectors.count, "vectors") as task:
        for shard in vectors:
            for start in range(0, len(shard), _ADDED_AT_ONCE):
                block = np.ascontiguousarray(shard[start : start + _ADDED_AT_ONCE])
                check_finite(block)
                index.add(block)
                task.advance(len(block))


def check_finite(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Refuse NaN and infinity, which faiss would index and never find.

    Raises:
        UserError: there is one.
    """
    if not np.isfinite(vectors).all():
        raise UserError("A vector to index is not finite (NaN or infinity): encode the corpus with `dtype='float32'`.")


@dataclass(frozen=True)
class IvfFlat:
    """`IVF{lists},Flat`: as large as a flat index, and faster by the share of lists that are skipped.

    Attributes:
        lists: number of inverted lists (`inverted.InvertedOptions` has the details of all options).
        nprobe: inverted lists visited by default.
        recall: target recall@10 of the trial.
        seed: random seed for the samples.
    """

    name: ClassVar[str] = "ivf-flat"
    refine: ClassVar[int] = 0

    lists: int | None = None
    nprobe: int | None = None
    recall: float = TARGET_RECALL
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: an option is out of range.
        """
        check_inverted(self)

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index below 1,000 documents."""
        return flat_if_few(self, count, progress)

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """Four a dimension, the id and a share of the centroids."""
        return 4 * dim + bytes_of_lists(self.lists, count, dim)

    def build(self, vectors: VectorSource, progress: Progress, device: str = "cpu") -> BuiltStructure:
        """Train the lists, add, and choose nprobe by trial."""
        return build_inverted(self, "Flat", vectors, progress, device)
