import json

import numpy as np
import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.comparison import System, compare
from ibkd_retrieval.evaluation.efficiency import Efficiency, Milliseconds, QueryLatency, Throughput
from ibkd_retrieval.evaluation.environment import read_environment
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.evaluation.significance import (
    bootstrap_difference,
    bootstrap_mean,
    holm,
    paired_t_test,
    randomisation_test,
)

RNG = np.random.default_rng(0)
TEACHER = RNG.random(40)
STUDENT = np.clip(TEACHER - RNG.normal(0.02, 0.1, 40), 0, 1)
OTHER = RNG.random(40)


def evaluated(*columns, queries=None, level=1, names=("ndcg@10", "mrr@10")):
    columns = [np.asarray(column, dtype=float) for column in columns]
    ids = tuple(queries or (f"q{number}" for number in range(len(columns[0]))))
    per_query = dict(zip(names, columns, strict=False))
    means = {name: float(column.mean()) for name, column in per_query.items()}
    return Evaluation(
        means,
        per_query,
        ids,
        missing=2,
        extra=0,
        without_relevant=0,
        relevance_level=level,
        judged_share=1.0,
        answered=np.ones(len(ids), dtype=bool),
    )


def costs(factor):
    latency = QueryLatency(*(Milliseconds(p * factor, 2 * p * factor) for p in (3, 1, 4)), samples=9)
    return Efficiency(
        10 * factor,
        90 * factor,
        8 * factor,
        400 * factor,
        100,
        1000 * factor,
        500 * factor,
        latency,
        Throughput(60 / factor, 50 / factor, 70 / factor, 10, 3),
    )


@pytest.fixture(scope="module")
def comparison():
    return compare(
        [
            System("teacher", evaluated(TEACHER, OTHER), costs(4)),
            System("student", evaluated(STUDENT, OTHER), costs(1)),
            System("other", evaluated(OTHER, STUDENT)),
        ],
        bootstrap_samples=500,
        permutations=999,
        seed=3,
        environment=read_environment(),
    )


def test_retention_is_the_ratio_of_means_and_one_for_the_first(comparison):
    teacher, student, _ = comparison.rows
    assert student.scores["ndcg@10"].retention == pytest.approx(STUDENT.mean() / TEACHER.mean())
    low, high = student.scores["ndcg@10"].retention_interval
    assert low < student.scores["ndcg@10"].retention < high
    assert teacher.scores["ndcg@10"].retention == 1
    assert teacher.scores["ndcg@10"].retention_interval == (1, 1)


def test_intervals_and_tests_are_those_of_the_functions_alone(comparison):
    student = comparison.rows[1].scores["ndcg@10"]
    alone = bootstrap_mean(STUDENT, samples=500, seed=3)
    assert student.interval == pytest.approx((alone.low, alone.high))
    contrast = comparison.contrasts[0]
    assert (contrast.system, contrast.metric) == ("student", "ndcg@10")
    difference = bootstrap_difference(STUDENT, TEACHER, samples=500, seed=3)
    assert contrast.interval == pytest.approx((difference.low, difference.high))
    assert contrast.difference == pytest.approx(difference.estimate)
    assert contrast.t_test_p == paired_t_test(STUDENT, TEACHER).p_value
    assert contrast.randomisation_p == randomisation_test(STUDENT, TEACHER, 999, 3).p_value
    assert contrast.permutations == 999
    assert sum(contrast.queries) == 40


def test_holm_spans_all_contrasts(comparison):
    assert [(c.system, c.metric) for c in comparison.contrasts] == [
        ("student", "ndcg@10"), ("student", "mrr@10"), ("other", "ndcg@10"), ("other", "mrr@10"),
    ]  # fmt: skip
    assert [c.randomisation_p_holm for c in comparison.contrasts] == holm(
        [c.randomisation_p for c in comparison.contrasts]
    )


def test_gains_say_how_many_times_smaller_or_faster_a_system_is(comparison):
    teacher, student, other = comparison.rows
    assert set(teacher.gains.values()) == {1.0}
    assert len(student.gains) == 13
    assert list(student.gains.values()) == pytest.approx([4.0] * 13)
    assert other.gains == {}


def test_the_json_has_the_documented_shape(comparison):
    record = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert list(record) == [
        "format_version", "baseline", "metrics", "queries", "confidence", "bootstrap_samples", "seed", "systems",
        "contrasts", "environment",
    ]  # fmt: skip
    assert (record["baseline"], record["metrics"], record["queries"]) == ("teacher", ["ndcg@10", "mrr@10"], 40)
    assert list(record["systems"][1]) == ["name", "missing_queries", "scores", "efficiency", "gains"]
    assert list(record["systems"][1]["scores"]["mrr@10"]) == ["mean", "interval", "retention", "retention_interval"]
    assert record["systems"][1]["efficiency"]["query_latency_ms"]["total"] == {"p50": 4, "p95": 8}
    assert record["systems"][2]["efficiency"] is None
    assert set(record["contrasts"][0]) == {
        "system", "metric", "difference", "interval", "t_test_p", "randomisation_p", "randomisation_p_holm",
        "permutations", "exact", "wins", "ties", "losses",
    }  # fmt: skip


def test_a_first_system_that_scores_nothing_has_no_retention():
    found = compare([System("a", evaluated([0, 0])), System("b", evaluated([1, 0]))])
    assert found.rows[1].scores["ndcg@10"].retention is None
    assert found.rows[1].scores["ndcg@10"].retention_interval is None
    sometimes_zero = compare([System("a", evaluated([0, 1])), System("b", evaluated([1, 0]))])
    assert sometimes_zero.rows[1].scores["ndcg@10"].retention == 1
    assert sometimes_zero.rows[1].scores["ndcg@10"].retention_interval is None


def test_one_system_and_one_query_can_stand_alone():
    assert compare([System("a", evaluated([0.5]))]).contrasts == ()
    (contrast,) = compare([System("a", evaluated([0.5])), System("b", evaluated([0.7]))]).contrasts
    assert contrast.t_test_p is None
    assert contrast.randomisation_p == 1


@pytest.mark.parametrize(
    ("systems", "sentence"),
    [
        ([], "nothing to compare"),
        ([System("a", evaluated([1])), System("a", evaluated([1]))], "Two systems are called a"),
        ([System("a", evaluated([1])), System("b", evaluated([1, 0]))], r"different queries \(1 and 2\)"),
        ([System("a", evaluated([1])), System("b", evaluated([1], level=2))], "different metrics or relevance levels"),
        ([System("a", evaluated([1])), System("b", evaluated([1], names=["map"]))], "different metrics"),
    ],
)
def test_systems_that_do_not_compare_are_refused(systems, sentence):
    with pytest.raises(UserError, match=sentence):
        compare(systems)
