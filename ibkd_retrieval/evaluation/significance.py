"""Significance tests and bootstrap intervals for two systems on the same queries.

Arguments are per-query values of one metric [n], aligned by query; differences are system minus baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ibkd_retrieval.errors import UserError

Values = NDArray[np.float64]

_BLOCK_CELLS = 1 << 22
_TIE = 1e-12
"""Values nearer to each other than this are equal but for rounding."""


class TTest(NamedTuple):
    """A paired t-test: `difference` of means, `statistic` t with n - 1 degrees of freedom, two-sided `p_value`."""

    difference: float
    statistic: float
    p_value: float


class RandomisationTest(NamedTuple):
    """A paired randomisation test.

    Attributes:
        difference: difference of the means.
        p_value: two-sided p value.
        permutations: number of permutations tried.
        exact: whether all permutations were tried. Otherwise they were drawn at random.
        seed: random seed of the permutations.
    """

    difference: float
    p_value: float
    permutations: int
    exact: bool
    seed: int


class Interval(NamedTuple):
    """A bootstrap interval around an estimate, which holds `confidence` of the resampled values."""

    estimate: float
    low: float
    high: float
    confidence: float
    samples: int
    seed: int


class WinTieLoss(NamedTuple):
    """On how many queries the system is better than, equal to and worse than the baseline."""

    wins: int
    ties: int
    losses: int


class PairedTests(NamedTuple):
    """The tests of two systems on one metric.

    Attributes:
        interval: of the difference, by bootstrap.
        t_test_p: None for a single query, which has no variance.
    """

    randomisation: RandomisationTest
    interval: tuple[float, float]
    t_test_p: float | None
    queries: WinTieLoss


def paired_tests(
    system: Values, baseline: Values, resampled: Values, confidence: float, permutations: int, seed: int
) -> PairedTests:
    """All tests of one difference.

    Args:
        system: values by query [n].
        baseline: values by query [n].
        resampled: differences of means [s]; both are to be resampled together.
        confidence: of the interval.
        permutations: of the randomisation test.
        seed: of the randomisation test.
    """
    return PairedTests(
        randomisation_test(system, baseline, permutations, seed),
        percentiles(resampled, confidence),
        paired_t_test(system, baseline).p_value if len(system) > 1 else None,
        win_tie_loss(system, baseline),
    )


def paired_t_test(system: ArrayLike, baseline: ArrayLike) -> TTest:
    """Student's paired t-test (two-sided).

    Where all differences are equal there is no variance to compare with: p is 1 if they are zero and 0 if not.

    Raises:
        UserError: fewer than two queries, or lists of different lengths.
    """
    differences = _differences(system, baseline, "A t-test", at_least=2)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return TTest(mean, 0.0 if mean == 0 else float(np.copysign(np.inf, mean)), 1.0 if mean == 0 else 0.0)
    from scipy.stats import ttest_1samp

    found = ttest_1samp(differences, 0)
    return TTest(mean, float(found.statistic), float(found.pvalue))


def randomisation_test(
    system: ArrayLike, baseline: ArrayLike, permutations: int = 10_000, seed: int = 0
) -> RandomisationTest:
    """Fisher's paired randomisation test on the difference of means (two-sided).

    Under the null hypothesis each query's two values may be swapped, which changes the sign of their difference. p is
    the share of swaps with a difference at least as large as the one seen. All 2^n swaps are tried where these are no
    more than `permutations` (`scipy.stats.permutation_test`). Else random ones are drawn and the observed one counts
    among them, (1 + hits) / (1 + permutations), so that p is never 0 (`scipy.stats.monte_carlo_test`).
    Smucker, Allan, Carterette: A comparison of statistical significance tests for IR evaluation, CIKM 2007.

    Raises:
        UserError: no queries, lists of different lengths, or fewer than one permutation.
    """
    if permutations < 1:
        raise UserError(f"A randomisation test needs at least 1 permutation, not {permutations}.")
    differences = _differences(system, baseline, "A randomisation test")
    mean = float(differences.mean())
    # Swapping equal values changes nothing.
    differences = differences[differences != 0]
    count = len(differences)
    exact = count < permutations.bit_length()
    total = 2**count if exact else permutations
    if count < 2:
        return RandomisationTest(mean, 1.0, total, exact, seed)
    # Sums of the same numbers in another order differ by rounding; equal ones must count as equal.
    observed = abs(float(differences.sum())) * (1 - 1e-12) - 1e-15 * float(np.abs(differences).sum())
    null = _null_distribution(differences, total, exact, seed)
    hits = int((null >= observed).sum())
    return RandomisationTest(mean, hits / total if exact else (1 + hits) / (1 + total), total, exact, seed)


def _null_distribution(differences: Values, total: int, exact: bool, seed: int) -> Values:
    """Absolute sums of the differences with their signs changed in all ways, or in `total` random ones."""
    from scipy import stats

    shared: dict[str, Any] = {
        "statistic": lambda swapped, axis: np.abs(swapped.sum(axis=axis)),
        "vectorized": True,
        "n_resamples": total,
        "batch": max(1, _BLOCK_CELLS // len(differences)),
    }
    if exact:
        found = stats.permutation_test((differences,), permutation_type="samples", **shared)
    else:
        rng = np.random.default_rng(seed)

        def swapped(size: tuple[int, ...]) -> Values:
            return differences * (1 - 2 * rng.integers(0, 2, size=size, dtype=np.int8))

        found = stats.monte_carlo_test(differences, swapped, **shared)
    null: Values = found.null_distribution
    return null


def bootstrap_means(columns: ArrayLike, samples: int = 5_000, seed: int = 0) -> Values:
    """Means of resampled queries, the same resamples for every column.

    Args:
        columns: values [n, c], a query a row.
        samples: number of resamples s.
        seed: of the resampling.

    Returns:
        float64 [s, c].

    Raises:
        UserError: no queries, or fewer than one sample.
    """
    values = np.asarray(columns, dtype=np.float64)
    count = len(values)
    if count < 1 or samples < 1:
        raise UserError(f"A bootstrap needs at least 1 query and 1 sample: got {count} queries, {samples} samples.")
    if count == 1:
        return np.repeat(values, samples, axis=0)
    from scipy.stats import bootstrap

    def means(rows: NDArray[np.int64], axis: int) -> Values:
        # Counting how often each query was drawn is many times faster than gathering all columns.
        times = np.apply_along_axis(np.bincount, 1, rows, minlength=count)
        resampled: Values = (times.astype(np.float64) @ values / count).T
        return resampled

    found = bootstrap(
        (np.arange(count),),
        means,
        vectorized=True,
        n_resamples=samples,
        batch=max(1, _BLOCK_CELLS // count),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn: Values = found.bootstrap_distribution.T
    return drawn


def percentiles(resampled: Values, confidence: float = 0.95) -> tuple[float, float]:
    """The ends of the central interval that holds `confidence` of resampled values [s].

    Raises:
        UserError: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"The confidence must lie between 0 and 1, not {confidence}: 0.95 is usual.")
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_mean(values: ArrayLike, confidence: float = 0.95, samples: int = 5_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean over queries.

    Raises:
        UserError: no queries, fewer than one sample, or a confidence outside 0 and 1.
    """
    column = np.asarray(values, dtype=np.float64)
    means = bootstrap_means(column[:, None], samples, seed)[:, 0]
    return Interval(float(column.mean()), *percentiles(means, confidence), confidence, samples, seed)


def win_tie_loss(system: ArrayLike, baseline: ArrayLike) -> WinTieLoss:
    """Count queries by which side is better; differences of rounding are ties.

    Raises:
        UserError: no queries, or lists of different lengths.
    """
    differences = _differences(system, baseline, "A comparison")
    wins, losses = int((differences > _TIE).sum()), int((differences < -_TIE).sum())
    return WinTieLoss(wins, len(differences) - wins - losses, losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values, in the order given, that may each be compared with alpha.

    With p(1) <= ... <= p(m): adjusted(i) = max over j <= i of min(1, (m - j + 1) p(j)).
    Holm: A simple sequentially rejective multiple test procedure, 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(stepped)
    result: list[float] = adjusted.tolist()
    return result


def _differences(system: ArrayLike, baseline: ArrayLike, what: str, at_least: int = 1) -> Values:
    left, right = np.asarray(system, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise UserError(
            f"{what} needs one value per query from both systems: got {left.shape} and {right.shape}; evaluate both "
            "against the same judgements."
        )
    if len(left) < at_least:
        raise UserError(f"{what} needs at least {at_least} queries, not {len(left)}: judge more queries.")
    return left - right
