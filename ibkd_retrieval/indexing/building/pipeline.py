"""Runs the stages of a job concurrently, with bounded queues between them.

An error in any stage ends all stages and is raised in the caller. After an error of the reader, earlier items are
finished first. A job that fails on its input therefore keeps everything read before the error.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from ibkd_retrieval.errors import Failure

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds to wait for a reader that is still reading when its items are no longer wanted."""


class _Closed(Exception):
    """The queue is closed by its producer or its consumer."""


class _Channel(Generic[T]):
    """A bounded queue that can be closed from both ends."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._ended = self._closed = False

    def put(self, item: T) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                raise _Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or self._items)
            if self._closed or not self._items:
                raise _Closed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Close the queue for new items. Waiting items can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the queue and drop its items."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


@contextmanager
def answering(connection: Connection, doing: str) -> Iterator[None]:
    """A context for the main function of a process. An error is sent to the parent process, if that still listens.

    Args:
        connection: the connection to the parent process.
        doing: what the process does, for the message: "Encoding".
    """
    # An interrupt from the terminal reaches all processes. The parent decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    except ConnectionError:
        return
    except Exception as error:  # Any library can raise here. The parent process turns it into a message.
        with suppress(ConnectionError):
            connection.send(Failure.of(error, doing))


@contextmanager
def read_ahead(items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Make `items` in a separate thread while the caller works on earlier ones.

    Args:
        items: the items. An error while one is made is raised in the caller after all earlier items.
        depth: maximum number of items that wait. One more is being made.

    Yields:
        The items in order.
    """
    channel: _Channel[T | _Failure] = _Channel(depth)

    def read() -> None:
        try:
            for item in items:
                channel.put(item)
                del item  # The consumer owns it. This thread must not keep it alive.
        except _Closed:
            pass
        except BaseException as error:
            _put_quietly(channel, _Failure(error))
        finally:
            if isinstance(items, Generator):
                items.close()  # Here, and not wherever it is collected: it may have processes to end.
            channel.end()

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield _received(channel)
    finally:
        channel.close()
        thread.join(_PATIENCE)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _put_quietly(channel: _Channel[T | _Failure], failure: _Failure) -> None:
    # If closed, the caller stopped because of its own error, which is the one to report.
    with suppress(_Closed):
        channel.put(failure)


def _received(channel: _Channel[T | _Failure]) -> Iterator[T]:
    while True:
        try:
            item = channel.get()
        except _Closed:
            return
        if isinstance(item, _Failure):
            raise item.error
        yield item
        del item


class WriteBehind(Generic[T]):
    """Handles items in order in a separate thread, while the caller makes the next ones.

    A context manager. On exit, it waits for all items, even after an error of the caller, so that no work is lost.
    An interrupt drops waiting items and finishes the current one.
    """

    def __init__(self, handle: Callable[[T], object], depth: int = 1) -> None:
        """`handle` is called with each item. At most `depth` items wait."""
        self._handle = handle
        self._channel: _Channel[T] = _Channel(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def put(self, item: T) -> None:
        """Put an item. Blocks while the queue is full.

        Raises:
            BaseException: what handling an earlier item raised.
        """
        try:
            self._channel.put(item)
        except _Closed:
            self.check()

    def check(self) -> None:
        """Raise what handling an earlier item raised, if anything."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> WriteBehind[T]:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wait for all items, and raise their error unless another error is being raised."""
        if kind is None or issubclass(kind, Exception):
            self._channel.end()
        else:
            self._channel.close()
        self._thread.join()
        if kind is None:
            self.check()

    def _run(self) -> None:
        try:
            while True:
                item = self._channel.get()
                self._handle(item)
                del item
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
            self._channel.close()
