"""Batches computed in parallel threads, each with an equal part of the cores.

When all cores compute one batch, they wait for the slowest after every operation. Small operations, such as the
attention of a few texts, do not divide well. With a batch per thread, no thread waits for another.
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

# Every thread holds a batch in memory.
_MOST = 4
# Items per thread that are computed or queued before the first result is taken.
_AHEAD = 2


def thread_count(cores: int | None = None) -> int:
    """Return how many batches to compute at once on `cores`; None stands for the cores that torch uses here.

    The count leaves the fewest cores idle. All threads have equally many cores: with unequal parts, the bits of a
    vector would depend on which thread was free first. So 7 cores make 3 threads of 2 cores, and one core is idle or
    tokenises.
    """
    if cores is None:
        import torch

        cores = torch.get_num_threads()
    several = range(2, min(cores, _MOST) + 1)
    return max(several, key=lambda threads: (cores // threads * threads, threads), default=1)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """Compute `work` for every item and yield the results in order, in parallel threads where possible.

    Every thread computes equally many items. The rest is computed one by one on all cores. The last item is always in
    the rest, because it may be a small batch. The number of items alone decides how many cores compute an item, so
    equal calls give equal bits. Few items are started ahead, and none after the generator is closed.
    """
    threads = thread_count()
    together = max(0, len(items) - 1) // threads * threads if threads > 1 else 0
    if together:
        yield from _in_threads(work, items[:together], threads)
    yield from map(work, items[together:])


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Generator[Result, None, None]:
    pool = _own_pool(threads)
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) == _AHEAD * threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


class _Pools(threading.local):
    """The thread pools of the current thread, by number of threads, number of cores and process id.

    Two callers never share a pool, because each would wait for the batches of the other. A pool ends with the thread
    that owns it. A forked process makes its own pools, because threads do not survive a fork.
    """

    def __init__(self) -> None:
        self.made: dict[tuple[int, int, int], ThreadPoolExecutor] = {}


_POOLS = _Pools()


def _own_pool(threads: int) -> ThreadPoolExecutor:
    import torch

    cores = torch.get_num_threads()
    key = threads, cores, os.getpid()
    if key not in _POOLS.made:
        _POOLS.made[key] = _new_pool(threads, cores)
    return _POOLS.made[key]


def _new_pool(threads: int, cores: int) -> ThreadPoolExecutor:
    """Start `threads` threads that run the operations of torch on an equal part of `cores`."""
    import torch

    pool = ThreadPoolExecutor(threads, thread_name_prefix="encoding")
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        # At its first call, torch gives a new thread the number that any thread has set last.
        torch.get_num_threads()
        torch.set_num_threads(cores // threads)
        started.wait()

    for _ in range(threads):
        pool.submit(begin)
    started.wait()
    torch.set_num_threads(cores)  # For later threads. Existing ones keep their number.
    return pool
