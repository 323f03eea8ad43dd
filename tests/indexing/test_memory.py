import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.building.memory import (
    least_shard_size,
    machine_memory,
    parse_size,
    plan_memory,
    resident_bytes,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512e6), ("2GB", 2e9), ("2 gb", 2e9), ("1.5GiB", 1.5 * 2**30), ("700000000", 7e8), ("3M", 3e6)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: float):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-2GB", "0", "0MB", "2XB", "GB", "1e9"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(UserError, match="such as 512MB or 2GB"):
        parse_size(text)


def test_a_quarter_of_the_machine_is_the_default():
    plan = plan_memory(None, dim=384, batch_tokens=4096, resident=0)
    assert plan.limit == machine_memory() // 4
    assert 10**6 < resident_bytes() < machine_memory()


def test_plenty_of_memory_leaves_the_usual_sizes():
    plan = plan_memory(16 * 10**9, dim=384, batch_tokens=4096, resident=10**9)
    assert (plan.shard_size, plan.batch_tokens, plan.depth) == (8192, 4096, 2)


@given(st.integers(10**8, 10**11), st.sampled_from([32, 384, 768, 1024]), st.integers(1, 8))
def test_what_is_planned_fits(limit: int, dim: int, workers: int):
    resident = 2 * 10**8
    try:
        plan = plan_memory(limit, dim=dim, batch_tokens=4096, resident=resident, workers=workers)
    except UserError:
        return
    in_flight = 3 + 2 * plan.depth + workers - 1
    shards = in_flight * (plan.shard_size * 8 * dim + 3 * plan.shard_text)
    processes = 1 if workers == 1 else workers + 1
    reserve = 32 * 2**20  # For what is loaded later. Without it, 700 MB asked for became 708 MB.
    assert processes * (resident + reserve) + workers * plan.batch_tokens * dim * 128 + shards <= limit
    assert 64 <= plan.shard_size <= 8192


def test_too_little_memory_is_refused_with_what_is_needed():
    with pytest.raises(UserError, match=r"`memory=300MB` is too little: .* take [\d,]+MB"):
        plan_memory(3 * 10**8, dim=384, batch_tokens=4096, resident=4 * 10**8)
    with pytest.raises(UserError, match="`shard_size`"):
        plan_memory(6 * 10**8, dim=384, batch_tokens=4096, resident=4 * 10**8, shard_size=10**6)


def test_batches_side_by_side_are_counted():
    one, four = (plan_memory(10**9, dim=384, batch_tokens=4096, resident=10**8, batches=batches) for batches in (1, 4))
    assert (one.batch_tokens, four.batch_tokens) == (4096, 2048)


def test_a_large_corpus_has_larger_shards_by_itself_and_no_more_than_a_process_may_map():
    sizes = {
        documents: plan_memory(10**11, dim=384, batch_tokens=4096, resident=0, documents=documents).shard_size
        for documents in (None, 1, 245_760_000, 245_760_001, 10**9)
    }
    assert list(sizes.values()) == [8192, 8192, 8192, 16384, 65536]
    own = plan_memory(10**11, dim=384, batch_tokens=4096, resident=0, documents=10**9, shard_size=100)
    assert own.shard_size == 100
    assert [least_shard_size(documents) for documents in (0, 1, 30_000, 30_001, 10**9)] == [1, 1, 1, 2, 65536]
    usual, large = (
        plan_memory(10**11, dim=384, batch_tokens=4096, resident=0, documents=documents).shard_text
        for documents in (None, 10**9)
    )
    assert large == 8 * usual  # Otherwise their text would close them as early as small ones.
