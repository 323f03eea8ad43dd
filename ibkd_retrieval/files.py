"""Files that are written whole or not at all, and text that may be compressed."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.stores import StoreFile, address_of, open_stream

MODELS, INDEXES = Path("models"), Path("indexes")
"""Folders of students and indexes, below the working folder, unless another is named."""


@contextmanager
def atomic_write(path: Path | str) -> Iterator[IO[bytes]]:
    """Open `path` for writing bytes under a temporary name; sync and rename it on success.

    A reader sees the old file or the whole new one. On an exception the temporary file is removed
    and `path` is left as it was. Of a symbolic link, the file that it points to is written. A file that is replaced
    keeps its permissions. What a killed process left of writing `path` is removed.

    Raises:
        UserError: `path` is there and is no regular file.
    """
    path = _target(path)
    temporary = temporary_name(path)
    make_folder(path.parent)
    _remove_abandoned(path)
    try:
        # Exclusively: whatever was planted under that name is not written through.
        with open(temporary, "xb") as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:  # Writing to an open file does not name it.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LONGEST_NAME = 255
"""Bytes of a file's name, on all file systems that matter."""


def check_name(path: Path) -> None:
    """Refuse a name that no file system takes, before the work for it is done.

    Raises:
        UserError: a part of the path is too long, or it is an address in an object store.
    """
    if (address := address_of(path)) is not None:
        raise UserError(
            f"{address} is in an object store, where nothing is written in place: name a folder or file here, and "
            "upload an index that is finished with `export(to='store')`."
        )
    for part in path.parts:
        if len(os.fsencode(part)) > _LONGEST_NAME:
            raise UserError(
                f"The name {part[:40]}... has {len(part)} letters, too many for a file: give a shorter one."
            )


def beside(path: Path, suffix: str) -> Path:
    """A hidden name in the folder of `path`, made of its name, cut where that is long, and of `suffix`."""
    name = path.name.encode("utf-8", "surrogateescape")[: _LONGEST_NAME - 1 - len(suffix)]
    return path.with_name(f".{os.fsdecode(name)}{suffix}")


def temporary_name(path: Path) -> Path:
    """A name that nobody can foresee for what will be `path`. It says which process of which machine made it."""
    return beside(path, f".{uuid.uuid4().int:039d}{_machine():020d}{os.getpid():07d}.tmp")


@functools.cache
def _machine() -> int:
    """A number for this start of this machine, or container, among all that see the same files.

    Host names and numbers of process name spaces repeat, and what another machine writes must not pass for abandoned.
    """
    booted, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    start = booted.read_text("ascii") if booted.exists() else str(uuid.getnode())
    number = processes.stat().st_ino if processes.exists() else 0
    name = hashlib.blake2b(f"{platform.node()} {start} {number}".encode(), digest_size=8)
    return int.from_bytes(name.digest(), "little")


_MOST_NEIGHBOURS = 1000
"""Entries of a folder among which abandoned files are looked for. A folder of shards has many more."""


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that ended processes of this machine left.

    Those of other machines stay, since nothing tells whether they are still written. Names of earlier versions stay
    too: a machine has four digits in them, which others share.
    """
    mine = temporary_name(path).name
    start = mine[: mine.rindex(".", 0, -len(".tmp")) + 1]
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in itertools.islice(entries, _MOST_NEIGHBOURS):
            made = _MADE_BY.fullmatch(entry.name.removeprefix(start)) if entry.name.startswith(start) else None
            if made is None or int(made["machine"]) != _machine() or _is_running(int(made["process"])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


_MADE_BY = re.compile(r"\d{39}(?P<machine>\d{20})(?P<process>\d{7})\.tmp")


def own_folder(path: Path) -> Path:
    """Make a hidden folder for what will be the folder `path`; those of processes that are gone are removed."""
    make_folder(path.parent)
    _remove_abandoned(path)
    made = temporary_name(path)
    made.mkdir()
    return made


@contextmanager
def new_folder(destination: Path | str) -> Iterator[Path]:
    """A folder to write into that becomes `destination` on success and is removed on failure.

    Raises:
        UserError: `destination` is neither an empty nor a new folder.
    """
    destination = Path(os.path.abspath(destination))
    if destination == Path.cwd():
        raise UserError("An export makes a folder of its own, not the current one: name one with `output`.")
    check_name(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} exists and is not an empty folder: name another with `output`.")
    made = own_folder(destination)
    try:
        yield made
        sync_tree(made)
        os.replace(made, destination)
        sync_directory(destination.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing, durably; return those, the deepest first."""
    missing = [] if folder.is_dir() else [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_directory(each.parent)
    return missing


LOCK = ".lock"
"""The file in a folder that its writer holds locked."""

_LEFTOVER = re.compile(r"\.lock|\..+\.\d+\.tmp", re.DOTALL)


def is_leftover(path: Path) -> bool:
    """Whether `path` has the name of what a killed writer leaves: a partial file, or the lock of its folder."""
    return _LEFTOVER.fullmatch(path.name) is not None


def require_writable(path: Path | str, advice: str = "name a file elsewhere") -> None:
    """Find out before long work whether `path` can be written when it is done; nothing is left behind.

    Args:
        path: a file.
        advice: what the error says to do.

    Raises:
        UserError: it is there and is no regular file, something above it is no folder, its name is too long, or its
            folder (or the one that would hold that) takes no files.
    """
    path = _target(os.path.abspath(path))
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}: {folder}): {advice}.") from None


_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")


def _target(path: Path | str) -> Path:
    """The file to write for `path`, through symbolic links: a rename would put a file in place of a link or device.

    Raises:
        UserError: it is there and is no regular file, stands for a stream, or has too long a name.
    """
    path = Path(path)
    check_name(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it.")
    # What a stream leads to may be a file, which whoever opened it goes on writing.
    if os.path.abspath(path).startswith(_STREAMS) or (path.exists() and not path.is_file()):
        raise UserError(
            f"{path} is no regular file, and one would take its place: name a file, or leave the option out where the "
            "result may go to standard output."
        )
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sync_directory(folder: Path) -> None:
    """Make the renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make a folder and all that is below it durable. What is in a folder comes before the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_directory(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    sync_directory(folder)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def absolute(path: str) -> Path:
    """A path as the user typed it, absolute, with `~` for the home folder."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def cache_folder() -> Path:
    """The user's cache folder for this toolkit; it is not made here."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ibkd"


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def open_bytes(path: Path | str) -> IO[bytes]:
    """Open a file, also one in an object store, for reading bytes; `.gz` and `.zst` are decompressed on the way.

    Raises:
        OSError: the file cannot be opened; a damaged or cut-off compressed file raises it (or
            EOFError) while reading.
    """
    path = Path(path) if isinstance(path, str) else path
    stored = open_stream(path) if isinstance(path, StoreFile) else None
    if path.suffix == ".gz":
        import gzip

        return io.BufferedReader(gzip.open(stored or path, "rb"))
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(stored or pa.OSFile(str(path)), "zstd"))
    return stored or open(path, "rb")
