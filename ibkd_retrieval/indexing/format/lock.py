"""Lets one writer at a time change an index folder."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import check_name, make_folder

_held: dict[tuple[int, int], int] = {}
"""Folders, by device and inode, that a thread of this process writes in, which may enter them again."""


@contextmanager
def only_writer(folder: Path, make: bool = False, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold `folder`, made if it is to be, against other processes and threads that would write in it.

    The system gives it up with the process, however that ends. Where a file system has no locks, nothing is held.

    Args:
        folder: to be written in.
        make: make it where it is not there.
        wait: wait for whoever holds it, after telling so by this; None refuses at once.

    Raises:
        UserError: another holds it.
    """
    check_name(folder)
    made = make_folder(folder) if make else []
    if not folder.is_dir():
        yield  # Whoever would write here says what is wrong.
        return
    try:
        with _held_by_us(folder, wait):
            yield
    finally:
        with suppress(OSError):  # Where something was written, they stay.
            for each in made:
                each.rmdir()


@contextmanager
def _held_by_us(folder: Path, wait: Callable[[], object] | None) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        key, me = (status.st_dev, status.st_ino), threading.get_ident()
        if _held.get(key) == me:
            yield
            return
        if not _lock(descriptor):
            if wait is None:
                raise UserError(
                    f"Another process is writing to {folder}: wait until it is done, or end it and run this again."
                )
            wait()
            _lock(descriptor, wait=True)
        _held[key] = me
        try:
            yield
        finally:
            del _held[key]
    finally:
        os.close(descriptor)  # With it goes the lock.


def _lock(descriptor: int, wait: bool = False) -> bool:
    """Whether the folder is now ours, or cannot be anyone's; `wait` until it is."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True
