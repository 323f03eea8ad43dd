"""Batches computed side by side, each by a thread with its own part of the cores.

All cores on one batch wait for the slowest at the end of every operation, and share what is too small to be shared
well, such as the attention of a few texts. With batches of their own they wait for nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Every lane holds a batch in memory.
_MOST = 4
# Items a lane that are computed or wait before the result of the first of them is taken.
_AHEAD = 2


def lane_count(threads: int | None = None) -> int:
    """How many batches are computed at once by `threads`; by this thread's share of the cores where None.

    As many as leave fewest of the threads idle. Lanes have equal parts of them: with unequal ones, a vector's bits
    would depend on which lane was free first. So 7 threads make 3 lanes of 2, and one idles, or tokenises meanwhile.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    several = range(2, min(threads, _MOST) + 1)
    return max(several, key=lambda lanes: (threads // lanes * lanes, lanes), default=1)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """`work` for every item, in their order: as many as fill all lanes equally side by side, the rest one by one.

    The last may be a small one, and never is among the first. Which item is computed by how many threads depends on
    their number alone, so that equal calls give equal bits. Few are begun before they are asked for, and none after the
    generator is closed.
    """
    lanes = lane_count()
    together = max(0, len(items) - 1) // lanes * lanes if lanes > 1 else 0
    if together:
        yield from _in_lanes(work, items[:together], lanes)
    yield from map(work, items[together:])


def _in_lanes(work: Callable[[Item], Result], items: Sequence[Item], lanes: int) -> Generator[Result, None, None]:
    pool = _own_pool(lanes)
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) == _AHEAD * lanes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


class _Pools(threading.local):
    """The lanes of each thread that encodes, by their number, its number of threads, and the process.

    Two threads that shared lanes would wait for each other's batches. A pool that nothing refers to ends its threads,
    so those of a thread end with it. A forked process has its own: its parent's threads did not come along.
    """

    def __init__(self) -> None:
        self.made: dict[tuple[int, int, int], ThreadPoolExecutor] = {}


_POOLS = _Pools()


def _own_pool(lanes: int) -> ThreadPoolExecutor:
    import torch

    threads = torch.get_num_threads()
    key = lanes, threads, os.getpid()
    if key not in _POOLS.made:
        _POOLS.made[key] = _new_pool(lanes, threads)
    return _POOLS.made[key]


def _new_pool(lanes: int, threads: int) -> ThreadPoolExecutor:
    """Threads that run torch's operations in an equal part of `threads` each."""
    import torch

    pool = ThreadPoolExecutor(lanes, thread_name_prefix="encoding")
    started = threading.Barrier(lanes + 1)

    def begin() -> None:
        # A thread that is new to torch takes the number that any thread has set last, at its first use of it.
        torch.get_num_threads()
        torch.set_num_threads(threads // lanes)
        started.wait()

    for _ in range(lanes):
        pool.submit(begin)
    started.wait()
    torch.set_num_threads(threads)  # For threads to come; all that are there keep their own.
    return pool
