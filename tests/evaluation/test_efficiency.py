import json

import numpy as np
import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.efficiency import Efficiency, QueryPath, measure_latency, measure_throughput
from ibkd_retrieval.evaluation.environment import read_environment


class FakeClock:
    """Time that passes only when a step says so."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def step(self, name, seconds):
        def run(argument):
            self.log.append((name, argument if isinstance(argument, str) else None))
            self.now += seconds(argument) if callable(seconds) else seconds
            return np.zeros(2, dtype=np.float32)

        return run


def test_encode_search_and_their_sum_are_timed_apart_in_milliseconds():
    clock = FakeClock()
    systems = {
        "slow": QueryPath(clock.step("slow", 0.010), clock.step("slow search", 0.004)),
        "fast": QueryPath(clock.step("fast", 0.001), clock.step("fast search", 0.002)),
    }
    found = measure_latency(systems, ["a", "b", "c"], rounds=2, warmup=4, clock=clock)
    assert found["slow"].encode == pytest.approx((10, 10))
    assert found["slow"].search == pytest.approx((4, 4))
    assert found["slow"].total == pytest.approx((14, 14))
    assert found["fast"].total == pytest.approx((3, 3))
    assert found["fast"].samples == 6


def test_percentiles_of_the_sum_are_not_sums_of_percentiles():
    clock = FakeClock()
    seconds = {f"q{number}": number / 1000 for number in range(1, 101)}
    path = QueryPath(
        clock.step("encode", seconds.__getitem__), clock.step("search", lambda _: 0.1 - (clock.now % 1e-9))
    )
    found = measure_latency({"one": path}, list(seconds), rounds=1, warmup=0, clock=clock)["one"]
    assert found.encode.p50 == pytest.approx(50.5)
    assert found.encode.p95 == pytest.approx(95.05)
    assert found.total.p95 == pytest.approx(195.05)


def test_all_systems_answer_a_query_before_the_next_one_in_changing_order():
    clock = FakeClock()
    systems = {name: QueryPath(clock.step(name, 1.0), clock.step("", 1.0)) for name in "abc"}
    queries = [f"query {number}" for number in range(20)]
    measure_latency(systems, queries, rounds=1, warmup=0, clock=clock)
    encodes = [entry for entry in clock.log if entry[0]]
    turns = [encodes[start : start + 3] for start in range(0, len(encodes), 3)]
    assert [{query for _, query in turn} for turn in turns] == [{query} for query in queries]
    assert all({name for name, _ in turn} == set("abc") for turn in turns)
    assert len({tuple(name for name, _ in turn) for turn in turns}) > 3


def test_throughput_is_the_median_of_rounds_in_turns():
    clock = FakeClock()
    durations = iter([9.0, 1.0, 2.0, 4.0])
    systems = {"a": clock.step("a", lambda _: next(durations)), "b": clock.step("b", 1.0)}
    found = measure_throughput(systems, ["text"] * 8, rounds=3, warmup=1, clock=clock)
    assert found["a"] == (4, 2, 8, 8, 3)
    assert found["b"].documents_per_second == pytest.approx(8)
    timed = [name for name, _ in clock.log][2:]
    assert [set(timed[start : start + 2]) for start in (0, 2, 4)] == [{"a", "b"}] * 3


@pytest.mark.parametrize(
    ("systems", "items", "rounds"), [({}, ["a"], 1), ({"a": None}, [], 1), ({"a": None}, ["a"], 0)]
)
def test_nothing_to_time_is_refused(systems, items, rounds):
    for measure in (measure_latency, measure_throughput):
        with pytest.raises(UserError, match="Nothing to time"):
            measure(systems, items, rounds=rounds)


def test_derived_figures_follow_from_the_measured_ones():
    found = Efficiency(10, 90, 384, 400, documents=20, index_disk_bytes=1000, index_memory_bytes=500)
    record = json.loads(json.dumps(found.to_json()))
    assert record["parameters"] == 100
    assert record["disk_bytes_per_document"] == 50
    assert record["memory_bytes_per_document"] == 25
    assert record["query_latency_ms"] is None
    assert Efficiency(1, 2, 3, 4).disk_bytes_per_document is None


def test_the_environment_names_this_machine_as_json():
    record = json.loads(json.dumps(read_environment().to_json()))
    assert record["cores"] >= record["threads"] >= 1
    assert record["python"].startswith("3.")
    assert record["packages"]["numpy"] == np.__version__
