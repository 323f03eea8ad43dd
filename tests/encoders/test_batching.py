import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.encoders.tokens import default_batch_tokens, token_budget_batches

lengths_and_budget = st.tuples(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 300))


@given(lengths_and_budget)
def test_every_position_is_in_exactly_one_batch(case):
    lengths, budget = case
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))


@given(lengths_and_budget)
def test_no_padded_batch_exceeds_the_budget_unless_it_is_one_text(case):
    lengths, budget = case
    for batch in token_budget_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(lengths_and_budget)
def test_longest_texts_come_first(case):
    lengths, budget = case
    in_order = [lengths[row] for batch in token_budget_batches(lengths, budget) for row in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_no_texts_give_no_batches():
    assert list(token_budget_batches(np.array([], dtype=np.int64), 10)) == []


def test_a_gpu_is_given_more_tokens_at_a_time_than_a_processor():
    assert default_batch_tokens("cuda:1") > default_batch_tokens("cpu") > 0
