"""Finished indexes in an object store.

The manifest lies at `ADDRESS/index.json` and is written last. The other files lie in a folder beside it, which is named
after the digest of the manifest. Uploads of different indexes therefore never mix, whatever their order, and the same
upload goes on where it was broken off. The manifest is written only if it is still the one that the upload found, so of
two uploads at once one is told that it lost.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.files import atomic_write, cache_folder, sha256_file
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.integrity import damaged
from ibkd_retrieval.indexing.format.manifest import IndexManifest, manifest_of, read_manifest
from ibkd_retrieval.indexing.format.writing import only_writer
from ibkd_retrieval.progress import SILENT, Progress, Task
from ibkd_retrieval.stores import Store, address_of, need_room

_AT_ONCE = 16
"""Files that are copied at once. Most are small, and wait for the store."""
_PLACE = re.compile(r"[0-9a-f]{24}/")
_ABANDONED = timedelta(days=1)
"""An upload that wrote nothing for so long is abandoned. Until then, it goes on where it was broken off."""


@dataclass(frozen=True)
class UploadedIndex:
    """An index in an object store.

    Attributes:
        url: its address. `open_index` takes it.
        documents: number of documents.
        files: number of files.
        bytes: their size.
    """

    url: str
    documents: int
    files: int
    bytes: int


def upload_index(folder: Path, url: str, *, overwrite: bool = False, progress: Progress = SILENT) -> UploadedIndex:
    """Copy a finished index to an object store. Files that are there already are kept.

    Args:
        folder: the index folder.
        url: the address, `s3://BUCKET/NAME` or `gs://BUCKET/NAME`.
        overwrite: replace another index there. It serves until the new one is complete. The same index is written
            anew, file by file.
        progress: receives the progress.

    Raises:
        UserError: the index is damaged, another index is there, another upload ended first, or the store cannot be
            used.
        WorkFailed: the store failed.
    """
    store = _store(url)
    manifest, said = read_manifest(folder), (folder / layout.MANIFEST).read_bytes()
    place = _place_of(said)
    before, state = store.read_to_change(layout.MANIFEST)
    if before not in (None, said) and not overwrite:
        raise UserError(f"{store.address} holds another index: replace it with `overwrite`, or name another `url`.")
    # The copy says that somebody works at what an earlier upload left.
    store.write(f"{place}/{layout.MANIFEST}", said)
    names = [*manifest.files, *(name for name in _unlisted(manifest) if (folder / name).is_file())]

    def upload(name: str) -> None:
        path = folder / name
        if there.get(name) == path.stat().st_size:
            return
        digest = store.upload(path, f"{place}/{name}")
        if name in manifest.files and digest != manifest.files[name].sha256:
            store.delete(f"{place}/{name}")
            raise damaged(folder, manifest, name, "its checksum is not the one recorded")

    with progress.task("Uploading files", len(names), "files") as task:
        # To replace an index by itself is to mend it: what is there may be damaged.
        there = {} if overwrite and before == said else store.sizes(place)
        _each(upload, names, task)
    # An upload that replaced this very index may have removed its files meanwhile.
    there = store.sizes(place)
    _each(upload, names)
    if before != said and not store.change(layout.MANIFEST, said, state) and store.read(layout.MANIFEST) != said:
        raise UserError(
            f"Another upload to {store.address} ended first, and its index is there: upload this one again with "
            "`overwrite` to replace it, or name another `url`."
        )
    _clean(store, place, before)
    return UploadedIndex(store.address, manifest.document_count, len(names), manifest.disk_bytes)


def _clean(store: Store, place: str, before: bytes | None) -> None:
    """Remove the files of the index that was replaced, and those of other uploads that were abandoned."""
    last: dict[str, datetime] = {}
    for name, time in store.times("").items():
        folder = name[: name.find("/") + 1]
        last[folder] = max(time, last.get(folder, time))
    now = max(last.values())  # By the store's clock.
    replaced = None if before is None else f"{_place_of(before)}/"
    for folder, time in last.items():
        if _PLACE.fullmatch(folder) and folder != f"{place}/" and (folder == replaced or now - time > _ABANDONED):
            store.remove(folder.rstrip("/"))


def _unlisted(manifest: IndexManifest) -> list[str]:
    """The files of an index that its manifest does not list."""
    return [layout.PLAN, *(layout.record_file(number) for number in range(len(manifest.shards)))]


def local_folder(index: str | os.PathLike[str], progress: Progress = SILENT) -> Path:
    """The folder of an index. One in an object store is downloaded into the cache folder first.

    The copy is named after the digest of its manifest, so an index that was replaced is downloaded again. Copies of
    what was there before are then removed, unless a process uses them. Sizes and checksums are compared.

    Raises:
        UserError: there is no whole index at the address, or the store cannot be used.
        WorkFailed: the store failed, or the disk has no room.
    """
    if address_of(index) is None:
        return Path(index)
    store = _store(index)
    said = store.read(layout.MANIFEST)
    while True:
        if said is None:
            if store.sizes(""):
                raise UserError(
                    f"{store.address} holds half of an index, whose upload was broken off: upload it again."
                )
            raise UserError(
                f"{store.address} holds no index: check the address, or upload one with `export(to='store')`."
            )
        folder = cache_folder() / "indexes" / f"{_slug(store.address)}-{_place_of(said)}"
        try:
            _download(store, said, folder, progress)
            if _in_use(folder):
                return folder
        except FileNotFoundError as error:
            before, said = said, store.read(layout.MANIFEST)
            if said == before:
                raise UserError(f"{error} is missing, so the index is not whole: upload it again.") from error


def refuse_remote(index: object) -> None:
    """Refuse to change an index in an object store.

    Raises:
        UserError: it is in one.
    """
    if isinstance(index, str | os.PathLike) and (address := address_of(index)) is not None:
        raise UserError(
            f"{address} is in an object store, where no index is changed: change its local folder, and upload that "
            "with `export(to='store', overwrite=True)`."
        )


def _store(url: str | os.PathLike[str]) -> Store:
    address = address_of(url)
    if address is None:
        raise UserError(
            f"{os.fspath(url)} is no address in an object store: write s3://BUCKET/NAME or gs://BUCKET/NAME."
        )
    return Store(address)


def _place_of(manifest: bytes) -> str:
    """The folder of the files of an index, by what its manifest says."""
    return hashlib.sha256(manifest).hexdigest()[:24]


def _slug(address: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in address)[:120]


def _download(store: Store, said: bytes, folder: Path, progress: Progress) -> None:
    """Make the folder of an index, or complete it. Its manifest is written last."""
    path = folder / layout.MANIFEST
    if path.is_file() and path.read_bytes() == said:
        return
    waiting = partial(progress.say, f"waiting for another process that downloads {store.address}")
    with only_writer(folder, make=True, wait=waiting, say=progress.say):
        place = _place_of(said)
        manifest = manifest_of(lambda: said, f"{store.address}/{layout.MANIFEST}")
        there = store.sizes(place)
        for name in manifest.files:
            if name not in there:
                raise FileNotFoundError(f"{store.address}/{place}/{name}")
        due = [*manifest.files, *(name for name in _unlisted(manifest) if name in there)]
        left = [name for name in due if not _is_there(folder, name, manifest, there[name])]
        need_room(folder, sum(there[name] for name in left))

        def download(name: str) -> None:
            with atomic_write(folder / name) as file:
                digest = store.download(f"{place}/{name}", file)
                if name in manifest.files and digest != manifest.files[name].sha256:
                    raise WorkFailed(
                        f"{store.address}/{place}/{name} arrived damaged: run this again, or upload it again with "
                        "`overwrite`."
                    )

        progress.say(f"{store.address} is kept in {folder}")
        with progress.task("Downloading files", len(left), "files") as task:
            _each(download, left, task)
        with atomic_write(path) as file:
            file.write(said)
    for other in folder.parent.glob(f"{glob.escape(_slug(store.address))}-{'[0-9a-f]' * 24}"):
        if other != folder:
            _remove_unused(other)


_used: dict[tuple[int, int], int] = {}
"""Manifests of copies that this process opened, by device and inode. They stay locked until it ends."""


def _in_use(folder: Path) -> bool:
    """Keep a copy from being removed while this process runs. False if it was removed already."""
    with suppress(FileNotFoundError):
        file = os.open(folder / layout.MANIFEST, os.O_RDONLY)
        there = os.fstat(file)
        if (there.st_dev, there.st_ino) in _used:
            os.close(file)
            return True
        with suppress(OSError):  # A file system without locks.
            fcntl.flock(file, fcntl.LOCK_SH)
        _used[there.st_dev, there.st_ino] = file
        return (folder / layout.MANIFEST).exists()
    return False


def _remove_unused(folder: Path) -> None:
    """Remove a copy that no process downloads or uses. Where nothing can be locked, it stays."""
    with suppress(UserError, OSError), only_writer(folder):
        manifest = folder / layout.MANIFEST
        if manifest.exists():
            with open(manifest, "rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                manifest.unlink()
        shutil.rmtree(folder)


def _is_there(folder: Path, name: str, manifest: IndexManifest, size: int) -> bool:
    path = folder / name
    if not path.is_file() or path.stat().st_size != size:
        return False
    return name not in manifest.files or sha256_file(path) == manifest.files[name].sha256


def _each(work: Callable[[str], None], names: Iterable[str], task: Task | None = None) -> None:
    """Do work for each name, several at once. The first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for _ in pool.map(work, names):
                if task is not None:
                    task.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
