import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.distill.data.batches import BatchSchedule

cases = st.integers(2, 9).flatmap(
    lambda batch: st.tuples(
        st.just(batch),
        st.lists(st.integers(1, 30), min_size=batch, max_size=700).map(lambda lengths: np.array(lengths)),
        st.integers(0, 5),
    )
)


@settings(max_examples=50)
@given(cases)
def test_every_text_comes_at_most_once_an_epoch_in_full_batches(case):
    batch_size, lengths, seed = case
    schedule = BatchSchedule(lengths, batch_size, seed)
    for epoch in range(2):
        first = epoch * schedule.steps_per_epoch
        batches = [schedule.batch(first + step) for step in range(schedule.steps_per_epoch)]
        assert all(len(batch) == batch_size for batch in batches)
        seen = np.concatenate(batches)
        assert len(np.unique(seen)) == len(seen)
        assert len(lengths) - len(seen) < batch_size


@settings(max_examples=50)
@given(cases, st.lists(st.integers(0, 200), max_size=6), st.integers(0, 200))
def test_a_batch_depends_on_seed_and_step_and_not_on_what_was_asked_before(case, before, step):
    batch_size, lengths, seed = case
    used = BatchSchedule(lengths, batch_size, seed)
    for other in before:
        used.batch(other)
        used.bank(other, 3, 10)
    fresh = BatchSchedule(lengths, batch_size, seed)
    np.testing.assert_array_equal(used.batch(step), fresh.batch(step))
    np.testing.assert_array_equal(used.bank(step, 3, 10), fresh.bank(step, 3, 10))


@pytest.mark.parametrize("texts", [100, 809, 2590])
def test_few_texts_meet_others_in_each_epoch_and_the_longest_are_learnt_too(texts):
    lengths = np.sort(np.random.default_rng(0).lognormal(3, 0.6, texts).astype(np.int64))
    schedule = BatchSchedule(lengths, 100, 0)
    epochs = [
        [set(schedule.batch(epoch * schedule.steps_per_epoch + i)) for i in range(schedule.steps_per_epoch)]
        for epoch in range(12)
    ]
    assert set().union(*(batch for epoch in epochs for batch in epoch)) == set(range(texts))
    # How much the two most alike batches of two epochs share; all of it where there is but one batch.
    alike = np.mean([max(len(batch & other) for other in epochs[1]) / 100 for batch in epochs[0]])
    assert alike < 0.6 or schedule.steps_per_epoch == 1


def test_another_seed_gives_other_batches():
    lengths = np.arange(1, 200)
    first, second = (BatchSchedule(lengths, 10, seed) for seed in (0, 1))
    assert not np.array_equal(first.batch(0), second.batch(0))
    assert not np.array_equal(first.batch(0), first.batch(first.steps_per_epoch))


@pytest.mark.parametrize(("size", "rows"), [(10, 1000), (10, 12), (10, 11), (10, 10), (10, 4)])
def test_a_bank_has_the_size_asked_for_without_repetition_where_there_are_enough(size, rows):
    schedule = BatchSchedule(np.ones(8, dtype=np.int64), 4, 0)
    for step in range(20):
        drawn = schedule.bank(step, size, rows)
        assert len(np.unique(drawn)) == len(drawn) == min(size, rows)
        assert drawn.max() < rows
