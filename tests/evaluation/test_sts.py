from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from ibkd_retrieval.corpora.sts import PairSet, SentencePair
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.sts import correlations, similarity_of


class Angles:
    """Gives the text of a number the unit vector at that angle, in degrees, three times too long."""

    dim = 2

    def encode(self, texts: Sequence[str], kind: str = "document", progress=None) -> np.ndarray:
        angles = np.radians([float(text) for text in texts])
        return 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pairs_at(angles: Sequence[float], scores: Sequence[float]) -> PairSet:
    return PairSet("made", tuple(SentencePair("0", str(a), s) for a, s in zip(angles, scores, strict=True)))


def test_cosines_are_of_unit_vectors_and_correlate_as_scipy_says():
    generator = np.random.default_rng(0)
    angles = generator.uniform(0, 180, 50)
    scores = np.round(5 - angles / 36 + generator.normal(0, 0.8, 50))
    found = similarity_of(Angles(), pairs_at(angles, scores), samples=200)
    cosines = np.cos(np.radians(angles))
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-9)
    assert found.pearson == pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-6)
    assert found.spearman_interval.low < found.spearman < found.spearman_interval.high


def test_a_perfect_order_has_spearman_one_whatever_its_shape():
    found = similarity_of(Angles(), pairs_at([0, 10, 20, 170], [5, 4.9, 1, 0]), samples=20)
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson < 0.99


def test_a_model_that_tells_nothing_apart_scores_zero():
    assert correlations(np.full(5, 0.3), np.arange(5.0)) == (0.0, 0.0)


def test_scores_that_are_all_equal_are_refused():
    with pytest.raises(UserError, match="have the score 2"):
        similarity_of(Angles(), pairs_at([0, 1], [2, 2]))


def test_no_resamples_are_refused_and_resamples_that_tell_nothing_bound_nothing():
    pairs = pairs_at([0, 90], [5, 0])
    with pytest.raises(UserError, match="at least 1 sample: got 0"):
        similarity_of(Angles(), pairs, samples=0)
    found = [similarity_of(Angles(), pairs, samples=1, seed=seed).spearman_interval for seed in range(20)]
    assert {(round(each.low), round(each.high)) for each in found} == {(-1, 1), (1, 1)}
