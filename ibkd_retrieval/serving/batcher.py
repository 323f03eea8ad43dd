"""Micro-batching: items that arrive while a batch is processed form the next batch."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class QueueFull(Exception):
    """The queue is full."""


class Closed(Exception):
    """The batcher is closed and accepts no more items."""


class MicroBatcher(Generic[T, R]):
    """Threads that take the waiting items, up to a maximum, and work on them in one call.

    An item that arrives while a thread is idle is taken at once and alone, so batching never adds a wait; under load
    batches grow by themselves. Items that wait are shared evenly among the threads that are idle.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        max_waiting: int,
        workers: int = 1,
        begin: Callable[[int], None] = lambda busy: None,
    ) -> None:
        """Start the threads.

        Args:
            work: gives one result for each item, in order. Where it fails for several items it is called again for each
                alone, so that an item it cannot bear fails alone. Called by several threads at once if there are.
            max_batch: most items in one call.
            max_waiting: most items that wait for a call, at least 1.
            workers: threads that work.
            begin: called by a thread before it works, with the number of threads that are at work then, itself among
                them.
        """
        self._work, self._max_batch, self._max_waiting, self._begin = work, max_batch, max_waiting, begin
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"micro-batcher-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no call has taken yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether items are taken and worked on."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    def submit(self, item: T) -> Future[R]:
        """Put an item into the queue. A future that is cancelled while its item waits is never worked on.

        Raises:
            QueueFull: the queue is full.
            Closed: `close` was called.
        """
        future: Future[R] = Future()
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self._max_waiting:
                self._drop_cancelled()
                if len(self._waiting) >= self._max_waiting:
                    raise QueueFull
            self._waiting.append((item, future))
            self._changed.notify()
        return future

    def close(self, timeout: float | None = None) -> bool:
        """Take no more items, finish those that wait, end the threads; False if one runs on after `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(pair for pair in self._waiting if not pair[1].cancelled())

    def _run(self) -> None:
        while taken := self._next_batch():
            batch, busy = taken
            wanted = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._begin(busy)
                self._answer([item for item, _ in wanted], [future for _, future in wanted])

    def _next_batch(self) -> tuple[list[tuple[T, Future[R]]], int] | None:
        """This thread's share of what waits, once anything does, and how many threads work now; None at the end."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed)
            share = min(self._max_batch, math.ceil(len(self._waiting) / self._idle))
            self._idle -= 1
            if not share:
                return None
            return [self._waiting.popleft() for _ in range(share)], len(self._threads) - self._idle

    def _answer(self, items: list[T], futures: list[Future[R]]) -> None:
        try:
            results = self._work(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:
            if len(items) == 1:
                futures[0].set_exception(error)
                return
            for item, future in zip(items, futures, strict=True):
                self._answer([item], [future])
            return
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
