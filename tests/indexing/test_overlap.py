import threading
import time
from collections.abc import Iterator

import pytest

from ibkd_retrieval.indexing.building.pipeline import WriteBehind, read_ahead


def counted(made: list[int], count: int = 100) -> Iterator[int]:
    for number in range(count):
        made.append(number)
        yield number


def wait_until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_items_arrive_in_order_and_all_of_them():
    with read_ahead(range(1000), depth=3) as items:
        assert list(items) == list(range(1000))


def test_reading_runs_ahead_by_the_depth_and_one_and_no_further():
    made: list[int] = []
    with read_ahead(counted(made), depth=2) as items:
        assert next(items) == 0
        wait_until(lambda: len(made) == 4)
        time.sleep(0.05)
        assert len(made) == 4  # One is with the caller, two wait, one is in hand.


def test_an_error_while_reading_comes_after_all_items_before_it():
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk has gone")

    seen = []
    with pytest.raises(OSError, match="has gone"), read_ahead(broken()) as items:  # noqa: PT012
        for item in items:
            time.sleep(0.005)
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4]


def test_a_caller_that_leaves_early_ends_the_reader():
    def readers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]

    with pytest.raises(KeyboardInterrupt), read_ahead(counted([], 10**9)) as items:  # noqa: PT012
        assert next(items) == 0
        raise KeyboardInterrupt
    wait_until(lambda: not readers())


def test_writing_keeps_the_order_and_is_done_on_leaving():
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.002)
        written.append(item)

    with WriteBehind(write, depth=2) as writer:
        for number in range(20):
            writer.put(number)
    assert written == list(range(20))


def test_the_maker_waits_for_a_slow_writer():
    release = threading.Event()
    put: list[int] = []

    def fill(writer: WriteBehind[int]) -> None:
        for number in range(10):
            writer.put(number)
            put.append(number)

    with WriteBehind(lambda item: release.wait(5), depth=2) as writer:
        thread = threading.Thread(target=fill, args=(writer,))
        thread.start()
        wait_until(lambda: len(put) == 3)  # One is written, two wait.
        time.sleep(0.05)
        assert len(put) == 3
        release.set()
        thread.join()
    assert put == list(range(10))


@pytest.mark.parametrize("last", [True, False])
def test_an_error_while_writing_reaches_the_maker(last: bool):
    written = []

    def write(item: int) -> None:
        if item == 3:
            raise OSError("full")
        written.append(item)

    with pytest.raises(OSError, match="full"), WriteBehind(write) as writer:  # noqa: PT012
        for number in range(4 if last else 10**6):
            writer.put(number)
    assert written == [0, 1, 2]


def test_what_was_made_before_an_error_of_the_maker_is_written():
    written: list[int] = []
    with pytest.raises(ValueError, match="no more"), WriteBehind(written.append, depth=4) as writer:  # noqa: PT012
        for number in range(3):
            writer.put(number)
        raise ValueError("no more")
    assert written == [0, 1, 2]


def test_an_interrupt_drops_what_waits():
    release, written = threading.Event(), []

    def write(item: int) -> None:
        release.wait(5)
        written.append(item)

    with pytest.raises(KeyboardInterrupt), WriteBehind(write, depth=4) as writer:  # noqa: PT012
        for number in range(3):
            writer.put(number)
        threading.Timer(0.05, release.set).start()
        raise KeyboardInterrupt
    assert len(written) <= 1
