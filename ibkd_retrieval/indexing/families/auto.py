"""Chooses a family by trial, given a target recall and a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.families.family import FEWEST_DOCUMENTS, BuiltStructure, Family, Flat, check_recall
from ibkd_retrieval.indexing.families.hnsw import Hnsw
from ibkd_retrieval.indexing.families.inverted import IvfFlat
from ibkd_retrieval.indexing.families.quantised import IvfPq, RaBitQ, Sq8
from ibkd_retrieval.indexing.families.search_params import is_graph, list_count
from ibkd_retrieval.indexing.families.training import HERE, Making
from ibkd_retrieval.indexing.families.trial import Trial, describe, measured, params_to_try, reaches, trial_of
from ibkd_retrieval.indexing.format.manifest import OperatingPoint
from ibkd_retrieval.indexing.vectors import ArrayVectors, VectorSource, sample_rows
from ibkd_retrieval.progress import SILENT, Progress

SAMPLED_VECTORS = 50_000
"""Maximum number of vectors that candidates are tried on."""

_SEED = 0


class Choice(NamedTuple):
    """The result of the trial.

    Attributes:
        family: the family to build.
        points: all search parameters tried, with the structure and its bytes per vector, for the manifest.
    """

    family: Family
    points: tuple[OperatingPoint, ...]


def choose(
    vectors: VectorSource,
    recall: float,
    bytes_per_vector: int | None = None,
    milliseconds: float | None = None,
    queries: NDArray[np.float32] | None = None,
    progress: Progress = SILENT,
) -> Choice:
    """Choose a family that reaches the recall within a budget.

    Families that need more than `bytes_per_vector` are skipped. The others are built on a random sample of at most
    `SAMPLED_VECTORS`, and searched ever more thoroughly until they reach the recall. Time is scaled to all n vectors:
    by n for a flat index, by the square root of n for inverted lists, by log n for a graph. With a time limit, the
    smallest family that is fast enough is chosen. Without one, the fastest is.

    Args:
        vectors: the vectors of the corpus.
        recall: share of the exact ten nearest documents to find, in (0, 1].
        bytes_per_vector: maximum memory per vector. None is no limit.
        milliseconds: maximum time per query, searched in a batch on this machine. None is no limit.
        queries: held-out queries [q, dim]. None takes documents, made as hard as questions.
        progress: receives every measurement.

    Raises:
        UserError: a constraint is out of range, a query is not finite, or nothing reaches all constraints; the
            sentence says what is reachable.
    """
    check_recall(recall)
    for name, limit in (("memory per vector", bytes_per_vector), ("latency", milliseconds)):
        if limit is not None and not limit > 0:
            raise UserError(f"The limit of {name} must be above 0, not {limit}.")
    if queries is not None:
        _check_queries(queries, vectors.dim)
    families = list(_candidates(vectors.dim) if vectors.count >= FEWEST_DOCUMENTS else [Flat()])
    sizes = {family: family.bytes_per_vector(vectors.count, vectors.dim) for family in families}
    fitting = [family for family in families if bytes_per_vector is None or sizes[family] <= bytes_per_vector]
    if not fitting:
        smallest = min(sizes.values())
        raise UserError(
            f"No index of {vectors.count:,} vectors of {vectors.dim} dimensions fits {bytes_per_vector} bytes a "
            f"vector: the smallest takes {math.ceil(smallest)}; allow as much with `memory_per_vector`."
        )
    rows = sample_rows(vectors.count, SAMPLED_VECTORS, np.random.default_rng(_SEED))
    sample = ArrayVectors(vectors.gather(rows))
    trial = trial_of(sample, _SEED, queries)
    found: list[tuple[OperatingPoint, Family]] = []
    with progress.task("Trying index types", len(fitting), "types") as task:
        for family in fitting:
            for point in _points(family, trial, recall, vectors.count / sample.count):
                point = replace(point, bytes_per_vector=round(sizes[family], 1))
                found.append((point, replace(family, recall=recall) if hasattr(family, "recall") else family))  # type: ignore[type-var]
                progress.say(
                    f"{family.name} {point.structure} ({describe(point)}): recall@10 {point.recall_at_10:.3f}, "
                    f"{point.bytes_per_vector:,.0f} bytes a vector, {point.milliseconds:.3f} ms a query"
                )
            task.advance()
    return _best(found, recall, milliseconds, progress)


def _candidates(dim: int) -> Iterator[Family]:
    yield Flat()
    yield Hnsw()
    yield IvfFlat()
    yield Sq8()
    yield RaBitQ()
    for parts in (dim // 2, dim // 4, dim // 8):
        if parts and dim % parts == 0:
            yield IvfPq(subquantisers=parts)


def _points(family: Family, trial: Trial, recall: float, growth: float) -> Iterator[OperatingPoint]:
    """Build `family` on a sample and measure it with ever more thorough search parameters until it finds enough."""
    if isinstance(family, Flat):
        point = measured(family.build(trial.vectors, SILENT).index, trial, SearchParams())
        # Rounding of equal scores is not a miss.
        yield replace(point, recall_at_10=1.0, milliseconds=growth * point.milliseconds, structure="Flat")
        return
    first = replace(family, **({"ef_search": 16} if isinstance(family, Hnsw) else {"nprobe": 1}))  # type: ignore[type-var]
    built = first.build(trial.vectors, SILENT)
    index = built.index
    scale = 1 + math.log(growth) / math.log(trial.vectors.count) if is_graph(index) else math.sqrt(growth)
    refinements = (0,) if isinstance(family, Hnsw | IvfFlat) else (0, 2) if isinstance(family, Sq8) else None
    for group in params_to_try(index, SearchParams(), refinements):
        for params in group:
            point = measured(index, trial, params)
            yield replace(point, milliseconds=round(scale * point.milliseconds, 4), structure=built.factory)
        if reaches(point, recall) or (params.nprobe or 0) >= (list_count(index) or math.inf):
            return


def _best(
    found: list[tuple[OperatingPoint, Family]], recall: float, milliseconds: float | None, progress: Progress
) -> Choice:
    points = tuple(point for point, _ in found)
    enough = [each for each in found if reaches(each[0], recall)]
    fast = [each for each in enough if milliseconds is None or each[0].milliseconds <= milliseconds]
    if not enough:
        best = max(points, key=lambda point: point.recall_at_10)
        raise UserError(
            f"No index that fits finds {recall:g} of the exact ten nearest documents: the best, {best.structure}, "
            f"finds {best.recall_at_10:.3f} of sampled ones; ask for a lower `recall` or allow more with "
            "`memory_per_vector`."
        )
    if not fast:
        best = min((point for point, _ in enough), key=lambda point: point.milliseconds)
        raise UserError(
            f"No index that fits finds {recall:g} within {milliseconds:g} ms a query: the fastest, {best.structure}, "
            f"takes {best.milliseconds:.3f} ms; allow as much with `latency` or ask for a lower `recall`."
        )
    point, family = min(
        fast,
        key=lambda each: each[0].milliseconds if milliseconds is None else (each[0].bytes_per_vector or 0),
    )
    progress.say(f"Chosen: {family.name} ({point.structure} on the sample, {describe(point)}).")
    return Choice(family, points)


def _check_queries(queries: NDArray[np.float32], dim: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim or not len(queries):
        raise UserError(f"The queries to tune with have shape {queries.shape} and the index {dim} dimensions.")
    if not np.isfinite(queries).all():
        raise UserError("A query vector to tune with is not finite (NaN or infinity).")


@dataclass(frozen=True)
class Wanted:
    """The targets of an index. It stands for a family until the trial chooses one.

    Attributes:
        recall: target recall@10, against exact search.
        memory_per_vector: maximum bytes of memory per vector. None is no limit.
        milliseconds: maximum time per query. None is no limit.
    """

    name: ClassVar[str] = "chosen"

    recall: float
    memory_per_vector: int | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers before any vectors are computed.

        Raises:
            UserError: one is outside its range.
        """
        check_recall(self.recall)
        for option, value in (("memory_per_vector", self.memory_per_vector), ("latency", self.milliseconds)):
            if value is not None and not value > 0:
                raise UserError(f"`{option}` is {value:g}: give a number above 0.")

    def suited_to(self, count: int, progress: Progress) -> Family:
        """A flat index where the documents are too few to train anything else."""
        return self if count >= FEWEST_DOCUMENTS else Flat()

    def bytes_per_vector(self, count: int, dim: int) -> float:
        """What is allowed, or a flat index's."""
        return 4 * dim if self.memory_per_vector is None else self.memory_per_vector

    def choice(self, vectors: VectorSource, progress: Progress) -> Choice:
        """Try the families on a sample of the vectors.

        Raises:
            UserError: no family reaches all targets. The message says what is reachable.
        """
        return choose(vectors, self.recall, self.memory_per_vector, self.milliseconds, progress=progress)

    def build(
        self, vectors: VectorSource, progress: Progress, device: str = "cpu", making: Making = HERE
    ) -> BuiltStructure:
        """Choose a family and build it."""
        return self.choice(vectors, progress).family.build(vectors, progress, device, making)
