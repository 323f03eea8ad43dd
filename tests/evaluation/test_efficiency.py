import json

import numpy as np
import pytest

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.records import BatchRate
from ibkd_retrieval.evaluation.compare.timing import (
    BINS,
    QueryPath,
    QueryTimings,
    batch_rate_of,
    histogram_edges,
    latency_of,
    measure_throughput,
    ratio,
    time_encoding,
    time_queries,
)


class FakeClock:
    """Time that passes only when a step says so."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def step(self, name, seconds):
        def run(argument):
            self.log.append((name, argument))
            self.now += seconds(argument) if callable(seconds) else seconds
            return np.zeros(2, dtype=np.float32)

        return run


def latencies(systems, queries, **options):
    timings = time_queries(systems, queries, **options)
    edges = histogram_edges(list(timings.values()))
    return {name: latency_of(each, edges) for name, each in timings.items()}


def test_encode_search_and_their_sum_are_timed_apart_in_milliseconds():
    clock = FakeClock()
    systems = {
        "slow": QueryPath(clock.step("slow", 0.010), clock.step("slow search", 0.004)),
        "fast": QueryPath(clock.step("fast", 0.001), clock.step("fast search", 0.002)),
    }
    found = latencies(systems, ["a", "b", "c"], rounds=2, warmup=4, clock=clock)
    assert (found["slow"].encode.p50, found["slow"].encode.p99) == pytest.approx((10, 10))
    assert found["slow"].search.p95 == pytest.approx(4)
    assert found["slow"].total.p50 == pytest.approx(14)
    assert found["fast"].total.spread == pytest.approx((3, 3))
    assert found["fast"].samples == 6


def test_percentiles_of_the_sum_are_not_sums_of_percentiles():
    clock = FakeClock()
    seconds = {f"q{number}": number / 1000 for number in range(1, 101)}
    path = QueryPath(
        clock.step("encode", seconds.__getitem__), clock.step("search", lambda _: 0.1 - (clock.now % 1e-9))
    )
    found = latencies({"one": path}, list(seconds), rounds=1, warmup=0, clock=clock)["one"]
    assert found.encode.p50 == pytest.approx(50.5)
    assert found.encode.p95 == pytest.approx(95.05)
    assert found.encode.p99 == pytest.approx(99.01)
    assert found.total.p95 == pytest.approx(195.05)


def test_the_spread_is_of_the_medians_of_rounds():
    timings = QueryTimings(np.array([[1, 2, 9], [3, 4, 5]]) / 1000, np.zeros((2, 3)))
    assert latency_of(timings, histogram_edges([timings])).total.spread == pytest.approx((2, 4))


def test_the_histogram_counts_every_total_between_edges_that_systems_share():
    rng = np.random.default_rng(0)
    timings = [QueryTimings(rng.random((3, 50)) * scale, rng.random((3, 50))) for scale in (1, 20)]
    edges = histogram_edges(timings)
    first, other = (latency_of(each, edges).histogram for each in timings)
    assert first.edges_ms == other.edges_ms
    assert len(first.counts) == BINS == len(first.edges_ms) - 1
    assert sum(first.counts) == sum(other.counts) == 150
    inside = (timings[1].total * 1000 >= other.edges_ms[20]) & (timings[1].total * 1000 < other.edges_ms[21])
    assert other.counts[20] == np.count_nonzero(inside)


def test_equal_totals_have_a_histogram_too():
    timings = QueryTimings(np.full((2, 3), 0.001), np.zeros((2, 3)))
    assert sum(latency_of(timings, histogram_edges([timings])).histogram.counts) == 6


def test_all_systems_answer_a_query_before_the_next_one_in_changing_order():
    clock = FakeClock()
    systems = {name: QueryPath(clock.step(name, 1.0), clock.step("", 1.0)) for name in "abc"}
    queries = [f"query {number}" for number in range(20)]
    time_queries(systems, queries, rounds=1, warmup=0, clock=clock)
    encodes = [entry for entry in clock.log if entry[0]]
    turns = [encodes[start : start + 3] for start in range(0, len(encodes), 3)]
    assert [{query for _, query in turn} for turn in turns] == [{query} for query in queries]
    assert all({name for name, _ in turn} == set("abc") for turn in turns)
    assert len({tuple(name for name, _ in turn) for turn in turns}) > 3


def test_timings_of_a_query_stand_in_its_place_whatever_the_order():
    clock = FakeClock()
    systems = {name: QueryPath(clock.step(name, lambda text: float(text)), clock.step("", 0.0)) for name in "ab"}
    found = time_queries(systems, ["1", "2", "4"], rounds=3, warmup=1, clock=clock)
    assert found["a"].encode.tolist() == found["b"].encode.tolist() == [[1, 2, 4]] * 3


def test_a_ratio_is_taken_round_by_round():
    first, other = np.array([[8.0, 8, 8], [30, 30, 30], [2, 2, 2]]), np.array([[2.0, 2, 99], [10, 10, 0], [2, 2, 2]])
    assert ratio(first, other) == (3, (1, 4))
    # What slows both alike in a round changes nothing.
    slowed = np.array([[1.0], [7], [3]])
    assert ratio(first * slowed, other * slowed) == (3, (1, 4))


def test_throughput_is_the_median_of_rounds_in_turns():
    clock = FakeClock()
    durations = iter([9.0, 1.0, 2.0, 4.0])
    systems = {"a": clock.step("a", lambda _: next(durations)), "b": clock.step("b", 1.0)}
    found = measure_throughput(systems, ["text"] * 8, rounds=3, clock=clock)
    a = found["a"]
    assert (a.documents_per_second, a.slowest, a.fastest, a.documents, a.rounds) == (4, 2, 8, 8, 3)
    assert found["b"].documents_per_second == pytest.approx(8)
    timed = [name for name, _ in clock.log][2:]
    assert [set(timed[start : start + 2]) for start in (0, 2, 4)] == [{"a", "b"}] * 3


def test_a_part_of_the_sample_warms_up():
    clock = FakeClock()
    time_encoding({"a": clock.step("a", 1.0)}, ["text"] * 40, rounds=2, clock=clock)
    assert [len(texts) for _, texts in clock.log] == [16, 40, 40]


def test_a_batch_rate_counts_queries():
    assert batch_rate_of(np.array([[2.0], [1.0], [4.0]]), 8) == BatchRate(4, 2, 8, 8)


@pytest.mark.parametrize(
    ("systems", "items", "rounds"), [({}, ["a"], 1), ({"a": None}, [], 1), ({"a": None}, ["a"], 0)]
)
def test_nothing_to_time_is_refused(systems, items, rounds):
    for measure in (time_queries, measure_throughput):
        with pytest.raises(UserError, match="Nothing to time"):
            measure(systems, items, rounds=rounds)


def test_the_environment_names_this_machine_as_json():
    record = json.loads(json.dumps(read_environment().to_json()))
    assert record["cores"] >= record["threads"] >= 1
    assert record["python"].startswith("3.")
    assert record["packages"]["numpy"] == np.__version__
