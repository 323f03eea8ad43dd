import threading
from concurrent.futures import CancelledError

import pytest

from ibkd_retrieval.serving.answering import Closed, MicroBatcher, QueueFull


class Work:
    """Doubles numbers; the first batch waits until it may go on."""

    def __init__(self):
        self.batches, self.began, self.go = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.batches.append(list(items))
        self.began.set()
        assert self.go.wait(10)
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def batcher(work):
    made = MicroBatcher(work, max_batch=4, max_waiting=6)
    yield made
    work.go.set()
    assert made.close(10)


def held(batcher, work, item=0):
    """Keep the thread at work on one item, so that what follows waits."""
    future = batcher.submit(item)
    assert work.began.wait(10)
    return future


def test_an_item_is_taken_at_once_and_what_comes_meanwhile_makes_up_the_next_batches(batcher, work):
    futures = [held(batcher, work), *map(batcher.submit, range(1, 7))]
    work.go.set()
    assert [future.result(10) for future in futures] == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_what_finds_the_queue_full_is_turned_away(batcher, work):
    held(batcher, work)
    for item in range(6):
        batcher.submit(item)
    assert batcher.waiting == 6
    with pytest.raises(QueueFull):
        batcher.submit(99)


def test_what_was_given_up_is_not_worked_on_and_makes_room(batcher, work):
    held(batcher, work)
    waiting = [batcher.submit(item) for item in range(1, 7)]
    assert waiting[2].cancel()
    assert batcher.submit(7)
    work.go.set()
    assert waiting[5].result(10) == 12
    with pytest.raises(CancelledError):
        waiting[2].result(10)
    assert all(3 not in batch for batch in work.batches)


def test_an_item_that_the_work_cannot_bear_fails_alone(batcher, work):
    held(batcher, work)
    futures = [batcher.submit(item) for item in (1, 13, 2)]
    work.go.set()
    assert [futures[0].result(10), futures[2].result(10)] == [2, 4]
    with pytest.raises(ValueError, match="unlucky"):
        futures[1].result(10)
    assert batcher.submit(5).result(10) == 10


def test_a_wrong_number_of_results_is_an_error_and_mixes_up_nothing():
    batcher = MicroBatcher(lambda items: [], max_batch=4, max_waiting=4)
    with pytest.raises(RuntimeError, match="0 results for 1"):
        batcher.submit(1).result(10)
    assert batcher.close(10)


def test_closing_finishes_what_waits_and_takes_no_more(batcher, work):
    futures = [held(batcher, work), *map(batcher.submit, range(1, 6))]
    assert not batcher.close(0.01)
    with pytest.raises(Closed):
        batcher.submit(9)
    assert not batcher.alive
    work.go.set()
    assert batcher.close(10)
    assert [future.result(0) for future in futures] == [0, 2, 4, 6, 8, 10]


def test_two_workers_work_side_by_side_and_are_told_of_each_other(work):
    told = []
    batcher = MicroBatcher(work, max_batch=4, max_waiting=6, workers=2, begin=told.append)
    first = held(batcher, work)
    work.began.clear()
    second = batcher.submit(1)
    assert work.began.wait(10)
    assert not first.done()
    assert not second.done()
    waiting = [batcher.submit(item) for item in (2, 3, 4)]
    assert work.batches == [[0], [1]]
    work.go.set()
    assert [future.result(10) for future in (first, second, *waiting)] == [0, 2, 4, 6, 8]
    assert told[:2] == [1, 2]
    assert set(told) <= {1, 2}
    assert batcher.close(10)
    assert not batcher.alive


@pytest.mark.parametrize("workers", [1, 3])
def test_many_threads_get_each_its_own_result(workers):
    batcher = MicroBatcher(lambda items: [item**2 for item in items], max_batch=7, max_waiting=1000, workers=workers)
    found = {}

    def ask(start):
        for item in range(start, start + 200):
            found[item] = batcher.submit(item).result(10)

    threads = [threading.Thread(target=ask, args=(200 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {item: item**2 for item in range(1600)}
    assert batcher.close(10)
