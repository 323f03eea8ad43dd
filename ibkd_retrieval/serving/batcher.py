"""Micro-batching: what arrives while a batch is worked on makes up the next one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class QueueFull(Exception):
    """As many items wait as may."""


class Closed(Exception):
    """No more items are taken."""


class MicroBatcher(Generic[T, R]):
    """One thread that takes all waiting items, up to a maximum, and works on them in one call.

    An item that arrives while the thread is idle is taken at once and alone, so batching never adds a wait; under load
    batches grow by themselves. All work is done by the one thread: a library that keeps a pool of threads for each
    thread that calls it (OpenMP) has one pool.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], *, max_batch: int, max_waiting: int) -> None:
        """Start the thread.

        Args:
            work: gives one result for each item, in order. Where it fails for several items it is called again for each
                alone, so that an item it cannot bear fails alone.
            max_batch: most items in one call.
            max_waiting: most items that wait for a call, at least 1.
        """
        self._work, self._max_batch, self._max_waiting = work, max_batch, max_waiting
        self._waiting: deque[tuple[T, Future[R]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="micro-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that no call has taken yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether items are taken and worked on."""
        return self._thread.is_alive() and not self._closed

    def submit(self, item: T) -> Future[R]:
        """Put an item into the queue. A future that is cancelled while its item waits is never worked on.

        Raises:
            QueueFull: as many wait as may.
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
        """Take no more items, finish those that wait, end the thread; False if it runs on after `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _drop_cancelled(self) -> None:
        self._waiting = deque(pair for pair in self._waiting if not pair[1].cancelled())

    def _run(self) -> None:
        while batch := self._next_batch():
            wanted = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._answer([item for item, _ in wanted], [future for _, future in wanted])

    def _next_batch(self) -> list[tuple[T, Future[R]]]:
        """What waits, once anything does; nothing when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]

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
