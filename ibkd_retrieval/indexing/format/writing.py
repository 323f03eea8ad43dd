"""Lets one writer at a time change an index folder, and replaces a finished index as a whole.

To replace an index, the new one is built beside it, and then the two folders are swapped. The new index is built in
`.NAME.new`. That folder holds a mark that names the folder to replace. The mark moves with the swap, so a mark in the
index folder itself means that the old index must still be removed. If the process is killed at any point, the index
folder is either the whole old index or the whole new one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.files import LOCK, atomic_write, beside, check_name, is_leftover, make_folder, sync_directory
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.progress import SILENT, Progress

_held: dict[tuple[int, int], int] = {}
"""Folders locked by threads of this process, by device and inode. The same thread may lock one again."""


@contextmanager
def only_writer(
    folder: Path,
    make: bool = False,
    wait: Callable[[], object] | None = None,
    say: Callable[[str], object] = warnings.warn,
) -> Iterator[None]:
    """Lock `folder` against other processes, threads and machines that would write in it.

    The system releases the lock when the process ends.

    Args:
        folder: the folder to lock.
        make: create the folder if it is absent.
        wait: function called before waiting for another writer. None refuses at once.
        say: receives a remark if the file system has no locks. The work then goes on without one.

    Raises:
        UserError: another process or thread holds the folder.
    """
    check_name(folder)
    made = make_folder(folder) if make else []
    try:
        with ExitStack() as stack:
            # Whoever is waited for may have removed the folder, or put another in its place.
            while folder.is_dir() and not _take(folder, stack, wait, say):
                made = (make_folder(folder) if make else []) or made
            yield  # Without a folder, the writer reports the error.
    finally:
        with suppress(OSError):  # Folders with files stay.
            for each in made:
                each.rmdir()


def _take(folder: Path, stack: ExitStack, wait: Callable[[], object] | None, say: Callable[[str], object]) -> bool:
    """Lock a folder until `stack` ends. False if another folder has its name by now.

    A network file system locks only files that are open for writing. Earlier versions lock the folder itself.
    """
    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    status = os.fstat(opened)
    key, me = (status.st_dev, status.st_ino), threading.get_ident()
    if _held.get(key) == me:
        os.close(opened)
        return True
    with ExitStack() as held:
        held.callback(os.close, opened)
        _wait_for_lock(opened, folder, wait)
        file = _lock_file(opened)
        if file is not None:
            held.callback(os.close, file)
            if (fault := _wait_for_lock(file, folder, wait)) is not None:
                say(
                    f"Nothing can be locked in {folder} ({fault}): see to it that no other process or machine writes "
                    "there."
                )
        if not _leads_to(folder, opened) or (file is not None and not _leads_to(folder / LOCK, file)):
            return False
        _held[key] = me
        held.callback(_held.pop, key)
        if file is not None:
            held.callback(_remove_lock, opened, file)
        stack.push(held.pop_all())
    return True


def _lock_file(folder: int) -> int | None:
    """Open the lock of a folder that is open as `folder`. None if the folder takes no files."""
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with suppress(OSError):
            return os.open(LOCK, flags | os.O_NOFOLLOW, 0o666, dir_fd=folder)
    return None


def _remove_lock(folder: int, file: int) -> None:
    """Remove the lock `file` of a folder while it is held. Whoever waits for it looks whether it is still there."""
    with suppress(OSError):
        if os.path.samestat(os.stat(LOCK, dir_fd=folder), os.fstat(file)):
            os.unlink(LOCK, dir_fd=folder)


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether what is open as `descriptor` still has the name `path`."""
    try:
        # A network file system may answer a mere question from its memory.
        again = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(again), os.fstat(descriptor))
    finally:
        os.close(again)


def _wait_for_lock(descriptor: int, folder: Path, wait: Callable[[], object] | None) -> str | None:
    """Lock an open file or folder. If it cannot be locked at all, return the reason.

    Raises:
        UserError: another process holds it, and `wait` is None.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return error.strerror
        if wait is None:
            raise UserError(
                f"Another process is writing to {folder}: wait until it is done, or end it and run this again."
            ) from None
        wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return None


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_CURRENT_FOLDER, _EXCHANGE = -100, 2
"""Arguments of Linux's `renameat2`."""


@contextmanager
def _working_folder(folder: Path, resume: bool, overwrite: bool) -> Iterator[Path]:
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
    with only_writer(new, say=SILENT.say):
        try:
            yield new
        except BaseException:
            if not (new / layout.PLAN).exists():
                _discard(new)  # There is nothing to resume.
            raise
        _change_places(new, folder)
        _settle(folder)


@contextmanager
def new_index(folder: Path, resume: bool, overwrite: bool, progress: Progress) -> Iterator[Path]:
    """A context that gives the folder to build an index in, locked. The index becomes `folder` on success.

    Raises:
        UserError: another process writes to the folder, it may not be written, or it is in the way.
        WorkFailed: there is no room for a file.
    """
    with refusals_named(folder), only_writer(folder, make=True, say=progress.say):
        _settle(Path(os.path.realpath(folder)))
        # Another folder may have the name now. It is not locked yet.
        with only_writer(folder, say=SILENT.say), _working_folder(folder, resume, overwrite) as place:
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
        path = path.parent if is_leftover(path) else path
        new = _new(Path(os.path.realpath(folder)))
        if path not in (folder, new) and not {folder, new}.intersection(path.parents) and path not in folder.parents:
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
        shutil.rmtree(folder, ignore_errors=True)  # At most locks and partial files.
        os.rename(new, folder)
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
    layout.remove_staging(replaced)
    for entry in list(replaced.iterdir()):
        if entry.name == LOCK:
            continue
        inner = entry.is_dir() and entry.name in layout.FOLDERS
        for path in list(entry.iterdir()) if inner else [entry]:
            target = folder / path.relative_to(replaced)
            if not os.path.lexists(target):
                target.parent.mkdir(exist_ok=True)
                os.rename(path, target)
