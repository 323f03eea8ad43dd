"""Lets one writer at a time change an index folder, and replaces a finished index as a whole.

To replace an index, the new one is built beside it, and then the two folders are swapped. The new index is built in
`.NAME.new`. That folder holds a mark that names the folder to replace. The mark moves with the swap, so a mark in the
index folder itself means that the old index must still be removed. If the process is killed at any point, the index
folder is either the whole old index or the whole new one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.files import atomic_write, beside, check_name, is_leftover, make_folder, sync_directory
from ibkd_retrieval.indexing.format import layout

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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_CURRENT_FOLDER, _EXCHANGE = -100, 2
"""Arguments of Linux's `renameat2`."""


@contextmanager
def working_folder(folder: Path, resume: bool, overwrite: bool) -> Iterator[Path]:
    """A context that gives the folder to build an index in. It becomes `folder` on success.

    It is `folder` itself, unless a finished index there is replaced, or such a replacement is resumed.

    Args:
        folder: the index folder, locked by this process (`only_writer`).
        resume: continue an interrupted replacement.
        overwrite: replace the existing index.

    Raises:
        UserError: resume and overwrite are both asked for, or something else has the name that is needed.
    """
    if resume and overwrite:
        raise UserError("An index is either resumed or overwritten: give one of `resume` and `overwrite`.")
    folder = Path(os.path.realpath(folder))
    new = _new(folder)
    _settle(folder)
    if overwrite and _is_marked(new, folder):
        _discard(new)
    finished = layout.is_index(folder) and (folder / layout.MANIFEST).exists()
    # A mount point cannot be swapped with a folder beside it.
    begins = overwrite and finished and not os.path.ismount(folder)
    if not begins and not (resume and _is_marked(new, folder)):
        yield folder
        return
    if begins:
        if new.exists():
            if not new.is_dir() or not all(is_leftover(path) for path in new.iterdir()):
                raise UserError(f"{new} is in the way of the new index: move it elsewhere.")
            shutil.rmtree(new)
        new.mkdir()
        with atomic_write(new / layout.MARK) as file:
            file.write(os.fsencode(folder.name))
    with only_writer(new):
        try:
            yield new
        except BaseException:
            if not (new / layout.PLAN).exists():
                _discard(new)  # There is nothing to resume.
            raise
        _change_places(new, folder)
        _settle(folder)


@contextmanager
def new_index(folder: Path, resume: bool, overwrite: bool) -> Iterator[Path]:
    """A context that gives the folder to build an index in, locked. The index becomes `folder` on success.

    Raises:
        UserError: another process writes to the folder, it may not be written, or it is in the way.
        WorkFailed: there is no room for a file.
    """
    with refusals_named(folder), only_writer(folder, make=True), working_folder(folder, resume, overwrite) as place:
        yield place


@contextmanager
def refusals_named(folder: Path) -> Iterator[None]:
    """A context that turns write errors in `folder` into errors that say what to do.

    Raises:
        UserError: the folder may not be written.
        WorkFailed: there is no room for a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WorkFailed(
                f"{error.strerror} while writing to {folder}: what is finished is kept; make room and go on with "
                "`resume`."
            ) from error
        if error.errno not in _REFUSALS or error.filename is None:
            raise
        path = Path(error.filename)
        if path != folder and folder not in path.parents and path not in folder.parents:
            raise  # A file of the corpus or the model.
        raise UserError(f"{path} cannot be written ({error.strerror}): name another folder with `output`.") from error


def _new(folder: Path) -> Path:
    return beside(folder, ".new")


def _old(folder: Path) -> Path:
    return beside(folder, ".old")


def _is_marked(at: Path, folder: Path) -> bool:
    """Whether the folder at `at` was made to replace `folder`."""
    try:
        return (at / layout.MARK).read_bytes() == os.fsencode(folder.name)
    except OSError:
        return False


def _discard(new: Path) -> None:
    """Remove a partial index. Its mark is removed last, so that it stays recognisable until then."""
    for path in list(new.iterdir()):
        if path.name != layout.MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(new)


def _change_places(new: Path, folder: Path) -> None:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(new), os.fsencode(folder)
    if rename is None or rename(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _EXCHANGE) != 0:
        # Two steps on systems without an atomic swap. `_settle` finishes the second after a kill.
        os.rename(folder, _old(folder))
        os.rename(new, folder)
    sync_directory(folder.parent)


def _settle(folder: Path) -> None:
    """Finish a swap of two indexes that was killed."""
    new, old = _new(folder), _old(folder)
    if old.is_dir() and _is_marked(new, folder) and layout.is_free(folder):
        os.replace(new, folder)
    if not _is_marked(folder, folder):
        return
    for replaced in (old, new):
        if replaced.is_dir():
            _carry_over(replaced, folder)
            shutil.rmtree(replaced)
    (folder / layout.MARK).unlink()
    sync_directory(folder.parent)


def _carry_over(replaced: Path, folder: Path) -> None:
    """Move files that are not part of an index from the old folder to the new one."""
    for path in (*layout.ours(replaced), *layout.lexical_indexes(replaced)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for entry in list(replaced.iterdir()):
        inner = entry.is_dir() and entry.name in layout.FOLDERS
        for path in list(entry.iterdir()) if inner else [entry]:
            target = folder / path.relative_to(replaced)
            if not os.path.lexists(target):
                target.parent.mkdir(exist_ok=True)
                os.rename(path, target)
