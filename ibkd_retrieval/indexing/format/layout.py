"""The layout of an index folder, and which of its files belong to the index."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import LOCK
from ibkd_retrieval.indexing.format.lines import offsets_path
from ibkd_retrieval.json_io import parse

FORMAT = "ibkd-index"
FORMAT_VERSION = 3

MANIFEST = "index.json"
PLAN = "build.json"
APPEND_PLAN = "append.json"
STRUCTURE = "index.faiss"
DOC_IDS = "docids"
LEXICAL = "lexical"
TOMBSTONES = "deleted"
PARTS = "parts"
TRAINED = f"{PARTS}/trained.faiss"
"""The trained and empty structure, while its parts are filled."""
TRAINED_FROM = f"{PARTS}/trained.json"
"""What it was trained from."""

STAGING, PROBE = "staging", "probe"
"""The folder where other machines write, and how a file there begins that they look for."""
_STAGED = re.compile(rf"\d{{5,}}-[0-9a-f]{{32}}|\.?{PROBE}-.+")

MARK = ".replacing"

_FOLDERS = ("vectors", "documents", "shards", PARTS)
FOLDERS = (*_FOLDERS, LEXICAL)
"""The folders in an index folder."""
_OURS = re.compile(
    r"(index\.json|build\.json|append\.json|index(\.\d+)?\.faiss|docids(\.\d+)?(\.offsets\.npy)?|deleted\.\d+\.npy"
    r"|parts/(trained|\d{5,})\.faiss|parts/trained\.json|vectors/\d{5,}\.npy|documents/\d{5,}\.jsonl(\.offsets\.npy)?"
    r"|shards/\d{5,}\.(json|ids))"
)
_LEXICAL_INDEX = re.compile(r"[a-z0-9]+-[0-9a-f]{12}")
_NUMBERED = re.compile(
    r"index\.\d+\.faiss|docids\.\d+(\.offsets\.npy)?|deleted\.\d+\.npy|parts/(trained|\d{5,})\.faiss"
)
"""Names of files that an append or a deletion makes beside those of the same kind that it replaces."""
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")


def vectors_file(shard: int) -> str:
    """Relative path of a shard's vectors."""
    return f"vectors/{shard:05d}.npy"


def documents_file(shard: int) -> str:
    """Relative path of a shard's stored documents."""
    return f"documents/{shard:05d}.jsonl"


def part_file(number: int) -> str:
    """Relative path of a part of the structure."""
    return f"{PARTS}/{number:05d}.faiss"


def remove_parts(folder: Path, listed: Collection[str]) -> None:
    """Delete the parts of a structure that are not listed."""
    inner = folder / PARTS
    for path in ours(folder):
        if path.parent == inner and path.relative_to(folder).as_posix() not in listed:
            path.unlink()
    if inner.is_dir() and not any(inner.iterdir()):
        inner.rmdir()


def record_file(shard: int) -> str:
    """Relative path of the record of a finished shard."""
    return f"shards/{shard:05d}.json"


def ids_file(shard: int) -> str:
    """Relative path of the ids of a shard, one a line. An index that is finished has them in one list instead."""
    return f"shards/{shard:05d}.ids"


def doc_id_files(doc_ids: str = DOC_IDS) -> tuple[str, str]:
    """Relative paths of a list of document ids and of its offsets."""
    return doc_ids, offsets_path(Path(doc_ids)).name


def next_name(folder: Path, stem: str, suffix: str = "") -> str:
    """A name of the form stem.Nsuffix, with N above that of all files in `folder`."""
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+){re.escape(suffix)}")
    used = [int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return f"{stem}.{max(used, default=1) + 1}{suffix}"


def remove_unlisted(folder: Path, listed: Collection[str], shards: int) -> None:
    """Delete index files that neither a finished index of `shards` shards nor a plan refers to."""
    kept = {*listed, MANIFEST, PLAN, *(record_file(number) for number in range(shards))}
    for path in ours(folder):
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink()


def ours(folder: Path) -> list[Path]:
    """Every file in `folder` with a name of this format, temporary files included."""
    found = []
    for inner in (folder, *(folder / name for name in _FOLDERS)):
        for path in sorted(inner.iterdir()) if inner.is_dir() else ():
            temporary = _TEMPORARY.fullmatch(path.name)
            name = path.with_name(temporary["name"]) if temporary else path
            if path.is_file() and _OURS.fullmatch(name.relative_to(folder).as_posix()):
                found.append(path)
    return found


def lexical_indexes(folder: Path) -> list[Path]:
    """Every folder below `folder` that holds a lexical index of its documents, temporary ones included."""
    found = []
    inner = folder / LEXICAL
    for path in sorted(inner.iterdir()) if inner.is_dir() else ():
        temporary = _TEMPORARY.fullmatch(path.name)
        if path.is_dir() and _LEXICAL_INDEX.fullmatch(temporary["name"] if temporary else path.name):
            found.append(path)
    return found


def remove_leftovers(folder: Path, listed: Collection[str] | None = None) -> None:
    """Delete the partial files of a killed process, and where `listed` is given numbered files that it does not name.

    The caller holds the lock of the folder, so that no other process or machine is writing them.

    Args:
        folder: the index folder.
        listed: the files of a finished index. None keeps all numbered ones.
    """
    for path in ours(folder):
        name = path.relative_to(folder).as_posix()
        unlisted = listed is not None and _NUMBERED.fullmatch(name) and name not in listed
        if _TEMPORARY.fullmatch(path.name) or unlisted:
            path.unlink()
    remove_staging(folder)


def remove_staging(folder: Path) -> None:
    """Delete what other machines wrote for a build, and no other files in that folder."""
    staging = folder / STAGING
    if not staging.is_dir():
        return
    for path in staging.iterdir():
        if _STAGED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not any(staging.iterdir()):
        staging.rmdir()


def clear(folder: Path) -> None:
    """Delete an index, finished or not, and no other files in its folder.

    Raises:
        UserError: nothing in the folder says that it is an index.
    """
    if not is_index(folder):
        raise UserError(
            f"{folder} is not empty and holds no index of ours, so nothing in it is overwritten: "
            "name another folder with `output`."
        )
    for path in lexical_indexes(folder):
        shutil.rmtree(path)
    remove_staging(folder)
    # The manifest is deleted first and the plan last. An interrupted deletion leaves an unfinished index.
    files = sorted(ours(folder), key=lambda path: path.name != MANIFEST)
    for path in files:
        if path != folder / PLAN:
            path.unlink()
    for name in FOLDERS:
        inner = folder / name
        if inner.is_dir() and not any(inner.iterdir()):
            inner.rmdir()
    (folder / PLAN).unlink(missing_ok=True)


def is_index(folder: Path) -> bool:
    """Whether a manifest or the plan of a build in `folder` says that the folder is an index, finished or not."""
    return any(_has_mark(folder / name) for name in (MANIFEST, PLAN))


def is_free(folder: Path) -> bool:
    """Whether a new index may be made in `folder`: absent, empty, or killed before the plan was written.

    Raises:
        UserError: `folder` is a file.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        raise UserError(f"{folder} is a file where an index folder should be made: name another with `output`.")
    temporary = [_TEMPORARY.fullmatch(path.name) for path in folder.iterdir() if path.name not in (MARK, LOCK)]
    return all(match is not None and match["name"] == PLAN for match in temporary)


def _has_mark(path: Path) -> bool:
    try:
        value = parse(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def withdraw(folder: Path) -> None:
    """Mark the index as unfinished, before files of its manifest are replaced."""
    (folder / MANIFEST).unlink(missing_ok=True)
