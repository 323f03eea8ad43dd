import numpy as np
import pytest

from helpers.indexing_fakes import Listener, clustered
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.families.auto import choose
from ibkd_retrieval.indexing.families.trial import reaches
from ibkd_retrieval.indexing.format.manifest import OperatingPoint
from ibkd_retrieval.indexing.vectors import ArrayVectors
from ibkd_retrieval.progress import SILENT

COUNT, DIM = 3000, 32


@pytest.fixture(scope="module")
def vectors() -> ArrayVectors:
    return ArrayVectors(clustered(COUNT, DIM))


def test_the_family_chosen_fits_the_memory_and_reaches_the_recall_on_queries_not_seen(vectors: ArrayVectors):
    listener = Listener()
    choice = choose(vectors, 0.9, bytes_per_vector=60, progress=listener)
    size = choice.family.bytes_per_vector(COUNT, DIM)
    assert size <= 60 < 4 * DIM
    assert all(point.bytes_per_vector <= 60 for point in choice.points)
    assert len(listener.said) == len(choice.points) + 1
    built = choice.family.build(vectors, SILENT)
    (chosen,) = [point for point in built.operating_points if point.search_params == built.search]
    assert reaches(chosen, 0.9)


def test_under_a_limit_of_time_the_smallest_that_is_fast_enough_wins(vectors: ArrayVectors):
    choice = choose(vectors, 0.9, milliseconds=1000.0)
    sizes = [point.bytes_per_vector for point in choice.points if reaches(point, 0.9)]
    assert choice.family.bytes_per_vector(COUNT, DIM) == pytest.approx(min(sizes), abs=0.1)


def test_only_whole_vectors_are_always_found(vectors: ArrayVectors):
    choice = choose(ArrayVectors(next(iter(vectors))[:999]), 1.0)
    assert choice.family.name == "flat"
    assert [point.recall_at_10 for point in choice.points] == [1.0]


def test_queries_given_are_the_ones_tried(vectors: ArrayVectors):
    # Queries that are documents are easier than the stand-ins for questions.
    easy = choose(vectors, 0.9, bytes_per_vector=60, queries=next(iter(vectors))[:50])
    hard = choose(vectors, 0.9, bytes_per_vector=60)
    assert np.mean([p.recall_at_10 for p in easy.points]) != np.mean([p.recall_at_10 for p in hard.points])


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"recall": 0.9, "bytes_per_vector": 5}, r"fits 5 bytes a vector: the smallest takes \d+"),
        ({"recall": 0.9, "milliseconds": 1e-9}, r"within 1e-09 ms a query: the fastest, .*, takes"),
        ({"recall": 1.0, "bytes_per_vector": 25}, "the best, .*, finds"),
        ({"recall": 0.0}, "above 0 and at most 1"),
        ({"recall": 0.9, "bytes_per_vector": 0}, "memory per vector must be above 0"),
        ({"recall": 0.9, "milliseconds": -1.0}, "latency must be above 0"),
        ({"recall": 0.9, "queries": np.full((2, DIM), np.nan, dtype=np.float32)}, "not finite"),
        ({"recall": 0.9, "queries": np.ones((2, DIM + 1), dtype=np.float32)}, "shape"),
    ],
)
def test_what_cannot_be_reached_or_is_out_of_range_is_one_sentence(
    vectors: ArrayVectors, constraints: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    # Equal vectors in number would make even the coarsest codes exact; a handful of refinements must not.
    monkeypatch.setattr("ibkd_retrieval.indexing.families.trial._REFINEMENTS", (1,))
    with pytest.raises(UserError, match=message):
        choose(vectors, **constraints)


@pytest.mark.parametrize(("found", "recall", "enough"), [(0.99, 0.98, True), (0.989, 0.98, False), (1.0, 1.0, True)])
def test_half_of_what_may_be_missed_is_a_margin(found: float, recall: float, enough: bool):
    assert reaches(OperatingPoint(1, 1, found, 0.1), recall) == enough
