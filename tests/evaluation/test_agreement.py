import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import agreement, overlap, rank_biased_overlap, recall_against
from ibkd_retrieval.search.runs import Run

RANKINGS = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)


def extrapolated(first, second, p):
    """The definition as an infinite sum: agreement at each depth, carried on beyond the end of each ranking."""
    short, long = sorted((first, second), key=len)
    if not short:
        return float(not long)
    s, length = len(short), len(long)
    common = [len(set(short[:depth]) & set(long[:depth])) for depth in range(1, length + 1)]
    total = 0.0
    for depth in range(1, 3000):
        at = min(depth, length)
        # Beyond its end the shorter ranking goes on to agree as much as it did up to there.
        found = common[at - 1] + (common[s - 1] * (at - s) / s if at > s else 0)
        total += (1 - p) * p ** (depth - 1) * found / at
    return total


@given(RANKINGS, RANKINGS, st.sampled_from([0.5, 0.9, 0.98]))
def test_rank_biased_overlap_is_the_infinite_sum_that_defines_it(first, second, p):
    assert rank_biased_overlap(first, second, p) == pytest.approx(extrapolated(first, second, p), abs=1e-9)


@given(RANKINGS, RANKINGS)
def test_it_is_symmetric_and_lies_between_0_and_1(first, second):
    found = rank_biased_overlap(first, second)
    assert 0 <= found <= 1
    assert found == pytest.approx(rank_biased_overlap(second, first))


@given(RANKINGS.filter(bool))
def test_identical_rankings_agree_fully_and_disjoint_ones_not_at_all(ranking):
    assert rank_biased_overlap(ranking, ranking) == pytest.approx(1)
    assert rank_biased_overlap(ranking, [letter.upper() for letter in ranking]) == 0


def test_the_top_weighs_more_than_the_bottom():
    ranking = list("abcdefghij")
    assert rank_biased_overlap(ranking, list("bacdefghij")) < rank_biased_overlap(ranking, list("abcdefghji"))


def test_two_documents_by_hand():
    # (1-p)/p * (0/1 p + 2/2 p^2) + 2/2 p^2, with p 0.9.
    assert rank_biased_overlap(["a", "b"], ["b", "a"]) == pytest.approx(0.1 / 0.9 * 0.81 + 0.81)


@pytest.mark.parametrize("persistence", [0, 1, 1.5])
def test_a_persistence_that_is_none_is_refused(persistence):
    with pytest.raises(UserError, match="between 0 and 1"):
        rank_biased_overlap(["a"], ["a"], persistence)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("abcd", "dcba", 1.0), ("abcd", "abxy", 0.5), ("ab", "abcd", 0.5), ("", "ab", 0.0), ("", "", 1.0)],
)
def test_overlap_is_the_share_of_the_longer_ranking(first, second, expected):
    assert overlap(list(first), list(second)) == expected


def test_overlap_looks_at_ten():
    many = [str(number) for number in range(30)]
    assert overlap(many, many[5:]) == 0.5


def run(*rankings):
    scores = [np.arange(len(ranking), 0, -1.0) for ranking in rankings]
    return Run.from_lists([f"q{place}" for place in range(len(rankings))], [list(each) for each in rankings], scores)


def test_agreement_is_the_mean_over_queries():
    first, other = run("abc", "abc"), run("abc", "xyz")
    found = agreement(other, first, other, first)
    assert (found.overlap_at_10, found.rbo) == pytest.approx((0.5, 0.5))


def test_recall_is_the_share_of_the_exact_top_that_is_in_the_top():
    assert recall_against(run("abxy", "abcd"), run("abcd", "dcba"), 4) == 0.75
    assert recall_against(run("xa", "ba"), run("ab", "ab"), 1) == 0
    assert recall_against(run(""), run("ab"), 2) == 0


def test_runs_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="different queries"):
        recall_against(run("a"), run("a", "b"), 1)
