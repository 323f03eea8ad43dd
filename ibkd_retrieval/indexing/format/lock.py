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
"""Folders locked by threads of this process, by device and inode. The same thread may lock one again."""


@contextmanager
def only_writer(folder: Path, make: bool = False, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Lock `folder` against other processes and threads that would write in it.

    The system releases the lock when the process ends. On file systems without locks, nothing is locked.

    Args:
        folder: the folder to lock.
        make: create the folder if it is absent.
        wait: function called before waiting for another writer. None refuses at once.

    Raises:
        UserError: another process or thread holds the folder.
    """
    check_name(folder)
    made = make_folder(folder) if make else []
    if not folder.is_dir():
        yield  # The writer reports the error.
        return
    try:
        with _held_by_us(folder, wait):
            yield
    finally:
        with suppress(OSError):  # Folders with files stay.
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
        os.close(descriptor)  # This releases the lock.


def _lock(descriptor: int, wait: bool = False) -> bool:
    """Whether the folder is now locked, or cannot be locked at all. `wait` blocks until it is."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True
