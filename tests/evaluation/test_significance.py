from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation import significance
from ibkd_retrieval.evaluation.significance import (
    bootstrap_mean,
    bootstrap_means,
    holm,
    paired_t_test,
    randomisation_test,
    win_tie_loss,
)

RNG = np.random.default_rng(0)
BASELINE = RNG.random(60)
SYSTEM = np.clip(BASELINE + RNG.normal(0.03, 0.1, 60), 0, 1)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=40))
def test_the_t_test_equals_scipy_wherever_differences_vary(pairs):
    system, baseline = np.array(pairs, dtype=float).T / 8
    ours = paired_t_test(system, baseline)
    if np.ptp(system - baseline) == 0:
        assert ours.p_value == (1 if (system == baseline).all() else 0)
        return
    theirs = stats.ttest_rel(system, baseline)
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=1e-12)
    assert ours.difference == pytest.approx((system - baseline).mean())


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
@settings(max_examples=50)
def test_the_randomisation_test_of_few_queries_looks_at_every_swap(differences):
    differences = np.array(differences) / 10
    sums = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=len(differences))]
    ours = randomisation_test(differences, np.zeros(len(differences)))
    assert ours.exact
    assert ours.p_value == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9))


def test_the_randomisation_test_equals_scipys_permutation_test():
    ours = randomisation_test(SYSTEM, BASELINE, permutations=20_000, seed=1)
    theirs = stats.permutation_test(
        (SYSTEM, BASELINE),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    )
    assert not ours.exact
    assert ours.permutations == 20_000
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.006)
    assert ours.p_value == pytest.approx(paired_t_test(SYSTEM, BASELINE).p_value, abs=0.02)


def test_the_randomisation_test_is_never_zero_and_depends_on_its_seed_only():
    far = randomisation_test(BASELINE + 1, BASELINE, permutations=99)
    assert far.p_value == pytest.approx(1 / 100)
    assert randomisation_test(SYSTEM, BASELINE, seed=5) == randomisation_test(SYSTEM, BASELINE, seed=5)
    assert randomisation_test(SYSTEM, BASELINE, 999, 5).p_value != randomisation_test(SYSTEM, BASELINE, 999, 6).p_value


def test_thousands_of_queries_are_tested():
    rng = np.random.default_rng(1)
    system, baseline = rng.random((2, 3000))
    found = randomisation_test(system, baseline, permutations=500)
    assert not found.exact
    assert found.p_value == pytest.approx(stats.ttest_rel(system, baseline).pvalue, abs=0.08)


@pytest.mark.parametrize(("permutations", "exact"), [(15, False), (16, True), (17, True)])
def test_all_swaps_are_looked_at_as_soon_as_they_are_allowed(permutations, exact):
    assert randomisation_test([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], permutations).exact == exact


def test_swapping_the_systems_changes_only_the_sign():
    one, two = randomisation_test(SYSTEM, BASELINE), randomisation_test(BASELINE, SYSTEM)
    assert one.p_value == pytest.approx(two.p_value)
    assert one.difference == pytest.approx(-two.difference)


def test_equal_systems_differ_by_chance_alone():
    assert randomisation_test(BASELINE, BASELINE)[:2] == (0, 1)
    assert paired_t_test(BASELINE, BASELINE) == (0, 0, 1)
    assert win_tie_loss(BASELINE, BASELINE) == (0, 60, 0)


def test_under_the_null_hypothesis_five_percent_of_tests_are_below_five_percent():
    rng = np.random.default_rng(9)
    p_values = [randomisation_test(*rng.random((2, 30)), permutations=199, seed=n).p_value for n in range(600)]
    assert 0.03 < np.mean(np.array(p_values) <= 0.05) < 0.07


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_for_many_queries():
    values = np.random.default_rng(1).random(2000)
    found = bootstrap_mean(values, samples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.001)
    assert found.high == pytest.approx(values.mean() + half, abs=0.001)


def test_the_bootstrap_of_a_difference_equals_scipys_and_depends_on_its_seed_only():
    ours = bootstrap_mean(SYSTEM - BASELINE, samples=8000)
    theirs = stats.bootstrap((SYSTEM - BASELINE,), np.mean, n_resamples=8000, method="percentile", rng=3)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.002)
    assert ours == bootstrap_mean(SYSTEM - BASELINE, samples=8000)
    assert ours != bootstrap_mean(SYSTEM - BASELINE, samples=8000, seed=1)


def test_columns_are_resampled_together():
    means = bootstrap_means(np.stack([BASELINE, 2 * BASELINE + 1], axis=1), samples=50)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0] + 1)


def test_small_blocks_of_memory_give_valid_results_too(monkeypatch):
    monkeypatch.setattr(significance, "_BLOCK_CELLS", 100)
    assert randomisation_test([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0]).p_value == pytest.approx(2 / 16)
    assert bootstrap_means(BASELINE[:, None], samples=50).shape == (50, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_rejects_as_its_step_down_procedure_does(p_values):
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[place] * (len(p_values) - step) > alpha:
                break
            rejected.add(place)
        assert rejected == {place for place, p in enumerate(adjusted) if p <= alpha}


def test_holm_of_known_values():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_wins_ties_and_losses_are_counted_from_the_systems_side():
    assert win_tie_loss([1, 0.5, 0, 0.3], [0, 0.5 + 1e-15, 1, 0.2]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: paired_t_test([1.0], [0.0]), "A t-test needs at least 2 queries, not 1"),
        (lambda: paired_t_test([1.0, 2.0], [0.0]), r"got \(2,\) and \(1,\)"),
        (lambda: randomisation_test([], []), "at least 1 queries, not 0"),
        (lambda: randomisation_test([1.0], [0.0], permutations=0), "at least 1 permutation, not 0"),
        (lambda: bootstrap_mean([]), "got 0 queries"),
        (lambda: bootstrap_mean([1.0], samples=0), "0 samples"),
        (lambda: bootstrap_mean([1.0], confidence=95), "between 0 and 1, not 95"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
