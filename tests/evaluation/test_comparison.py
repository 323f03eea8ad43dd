import numpy as np
import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.comparison import Resampling, average_retention, compare_scores
from ibkd_retrieval.evaluation.metrics import Evaluation
from ibkd_retrieval.evaluation.significance import bootstrap_mean, holm, paired_t_test, randomisation_test, win_tie_loss

RNG = np.random.default_rng(0)
TEACHER = RNG.random(40)
STUDENT = np.clip(TEACHER - RNG.normal(0.02, 0.1, 40), 0, 1)
OTHER = RNG.random(40)
ELSEWHERE = {"teacher": RNG.random(25), "student": RNG.random(25), "other": RNG.random(25)}
HOW = Resampling(samples=500, permutations=999, seed=3)


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


@pytest.fixture(scope="module")
def found():
    first = {
        "teacher": evaluated(TEACHER, OTHER),
        "student": evaluated(STUDENT, OTHER),
        "other": evaluated(OTHER, STUDENT),
    }
    second = {name: evaluated(column, column) for name, column in ELSEWHERE.items()}
    return compare_scores({"here": first, "there": second}, HOW)


def test_retention_is_the_ratio_of_means_and_one_for_the_first(found):
    student, teacher = found.scores["here"]["student"]["ndcg@10"], found.scores["here"]["teacher"]["ndcg@10"]
    assert student.retention == pytest.approx(STUDENT.mean() / TEACHER.mean())
    low, high = student.retention_interval
    assert low < student.retention < high
    assert teacher.retention == 1
    assert teacher.retention_interval == (1, 1)


def test_intervals_and_tests_are_those_of_the_functions_alone(found):
    alone = bootstrap_mean(STUDENT, samples=500, seed=3)
    assert found.scores["here"]["student"]["ndcg@10"].interval == pytest.approx((alone.low, alone.high))
    contrast = found.contrasts["here"]["student"]["ndcg@10"]
    difference = bootstrap_mean(STUDENT - TEACHER, samples=500, seed=3)
    assert contrast.interval == pytest.approx((difference.low, difference.high))
    assert contrast.difference == pytest.approx(difference.estimate)
    assert contrast.t_test_p == paired_t_test(STUDENT, TEACHER).p_value
    assert contrast.randomisation_p == randomisation_test(STUDENT, TEACHER, 999, 3).p_value
    assert contrast.permutations == 999
    assert (contrast.wins, contrast.ties, contrast.losses) == win_tie_loss(STUDENT, TEACHER)


def test_holm_spans_all_contrasts_of_all_data_sets(found):
    contrasts = [
        each for systems in found.contrasts.values() for metrics in systems.values() for each in metrics.values()
    ]
    assert len(contrasts) == 2 * 2 * 2
    assert found.contrasts["here"]["teacher"] == {}
    assert [each.randomisation_p_holm for each in contrasts] == holm([each.randomisation_p for each in contrasts])


def test_an_average_counts_every_data_set_the_same(found):
    average = found.averages["student"]["ndcg@10"]
    mean = (STUDENT.mean() + ELSEWHERE["student"].mean()) / 2
    first = (TEACHER.mean() + ELSEWHERE["teacher"].mean()) / 2
    assert average.mean == pytest.approx(mean)
    assert average.retention == pytest.approx(mean / first)
    assert found.averages["teacher"]["ndcg@10"].retention_interval == (1, 1)


def test_the_interval_of_an_average_resamples_queries_within_data_sets(found):
    rng = np.random.default_rng(9)
    here, there = rng.integers(0, 40, (20_000, 40)), rng.integers(0, 25, (20_000, 25))
    ours = STUDENT[here].mean(axis=1) + ELSEWHERE["student"][there].mean(axis=1)
    theirs = TEACHER[here].mean(axis=1) + ELSEWHERE["teacher"][there].mean(axis=1)
    low, high = found.averages["student"]["ndcg@10"].retention_interval
    assert (low, high) == pytest.approx(tuple(np.quantile(ours / theirs, [0.025, 0.975])), abs=0.03)


def test_a_recorded_baseline_gives_the_retention_of_one_measured_now(found):
    ours = [{"m": STUDENT}, {"m": ELSEWHERE["student"]}]
    theirs = [{"m": TEACHER}, {"m": ELSEWHERE["teacher"]}]
    recorded, measured = average_retention(ours, "m", theirs, HOW), found.averages["student"]["ndcg@10"]
    assert recorded.mean == measured.mean
    assert recorded.retention == pytest.approx(measured.retention, rel=1e-12)
    # Sums over rows of another layout may differ in the last bit.
    assert recorded.retention_interval == pytest.approx(measured.retention_interval, rel=1e-12)


def test_a_first_system_that_scores_nothing_has_no_retention():
    nothing = compare_scores({"d": {"a": evaluated([0, 0]), "b": evaluated([1, 0])}})
    assert nothing.scores["d"]["b"]["ndcg@10"].retention is None
    assert nothing.averages["b"]["ndcg@10"].retention_interval is None
    sometimes_zero = compare_scores({"d": {"a": evaluated([0, 1]), "b": evaluated([1, 0])}})
    assert sometimes_zero.scores["d"]["b"]["ndcg@10"].retention == 1
    assert sometimes_zero.scores["d"]["b"]["ndcg@10"].retention_interval is None


def test_one_system_and_one_query_can_stand_alone():
    assert compare_scores({"d": {"a": evaluated([0.5])}}).contrasts == {"d": {"a": {}}}
    contrast = compare_scores({"d": {"a": evaluated([0.5]), "b": evaluated([0.7])}}).contrasts["d"]["b"]["ndcg@10"]
    assert contrast.t_test_p is None
    assert contrast.randomisation_p == 1


@pytest.mark.parametrize(
    ("data_sets", "sentence"),
    [
        ({}, "nothing to compare"),
        ({"d": {}}, "nothing to compare"),
        ({"d": {"a": evaluated([1]), "b": evaluated([1, 0])}}, r"different queries \(1 and 2\)"),
        ({"d": {"a": evaluated([1]), "b": evaluated([1], level=2)}}, "different metrics or relevance levels"),
        ({"d": {"a": evaluated([1]), "b": evaluated([1], names=["map"])}}, "different metrics"),
        ({"d": {"a": evaluated([1])}, "e": {"b": evaluated([1])}}, "The systems on e are b, elsewhere a"),
    ],
)
def test_systems_that_do_not_compare_are_refused(data_sets, sentence):
    with pytest.raises(UserError, match=sentence):
        compare_scores(data_sets)
