"""Batches computed side by side, each by a thread with its own part of the cores.

All cores on one batch wait for the slowest at the end of every operation, and share what is too small to be shared
well, such as the attention of a few texts. With batches of their own they wait for nothing.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Every lane holds a batch in memory.
_MOST = 4


def lane_count() -> int:
    """How many batches this thread's share of the cores computes at once."""
    import torch

    return min(torch.get_num_threads(), _MOST)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`work` for every item, in their order: as many as fill all lanes equally side by side, the rest one by one.

    The last may be a small one, and never is among the first. Which item is computed by how many threads depends on
    their number alone, so that equal calls give equal bits.
    """
    import torch

    lanes = lane_count()
    together = max(0, len(items) - 1) // lanes * lanes if lanes > 1 else 0
    if together:
        yield from _pool(lanes, torch.get_num_threads(), os.getpid()).map(work, items[:together])
    yield from map(work, items[together:])


@functools.cache
def _pool(lanes: int, threads: int, _process: int) -> ThreadPoolExecutor:
    """Threads that run torch's operations in an equal part of `threads` each; they last as long as the process.

    A forked process has its own: its parent's threads did not come along.
    """
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
