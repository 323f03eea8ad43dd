"""A cache of parsed source files. Parsing all packages takes half a minute, and reading the cache two seconds."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.pydocs import docstrings
from ibkd_retrieval.corpora.pydocs import sources as python_sources
from ibkd_retrieval.corpora.pydocs.sources import Definition, ModuleScan, find_sources, scan_source
from ibkd_retrieval.files import atomic_write, cache_folder
from ibkd_retrieval.progress import Progress


def scan_installed(roots: Sequence[Path], progress: Progress) -> list[ModuleScan]:
    """Scan every source file in `roots`. A file with unchanged size and time is not parsed again.

    Scans are kept in `$XDG_CACHE_HOME/ibkd` (`~/.cache/ibkd`). A cache that is damaged, or written by other rules
    than today's, is written anew.
    """
    path = cache_folder() / f"pydocs-{_digest(*(str(root).encode() for root in roots))}.jsonl"
    known = _read_cache(path)
    sources = [(source, stamp) for source in find_sources(roots) if (stamp := _stamp(source.path))]
    records: list[tuple[str, str, ModuleScan]] = []
    changed = len(sources) != len(known)
    with _no_garbage_collection(), progress.task("Reading installed packages", len(sources), "files") as task:
        for source, stamp in sources:
            kept = known.get(str(source.path))
            fresh = kept is None or kept[0] != stamp or kept[1].module != source.module
            scan = scan_source(source) if kept is None or fresh else kept[1]
            changed = changed or fresh
            records.append((str(source.path), stamp, scan))
            task.advance(1)
    if changed:
        try:
            _write_cache(path, records)
        except OSError as error:
            reason = error.strerror or error
            progress.say(f"Installed packages will be read again next time: {path} cannot be written ({reason})")
    return [scan for _, _, scan in records]


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a broken link
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}"


def _rules() -> str:
    """Return a digest of the code that reads docstrings. A cache of other code is outdated."""
    return _digest(*(Path(module.__file__).read_bytes() for module in (docstrings, python_sources) if module.__file__))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _read_cache(path: Path) -> dict[str, tuple[str, ModuleScan]]:
    known: dict[str, tuple[str, ModuleScan]] = {}
    try:
        with open(path, encoding="utf-8") as file, _no_garbage_collection():
            if json.loads(file.readline()) != {"rules": _rules()}:
                return {}
            for line in file:
                source, stamp, scan = json.loads(line)
                known[source] = stamp, _scan_from_json(scan)
    except (OSError, ValueError, TypeError):
        return {}
    return known


def _write_cache(path: Path, records: Sequence[tuple[str, str, ModuleScan]]) -> None:
    with atomic_write(path) as file:
        for record in ({"rules": _rules()}, *records):
            # ASCII, because a docstring may have a lone surrogate.
            file.write(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")


def _scan_from_json(value: Any) -> ModuleScan:
    module, is_package, definitions, imports, exported = value
    return ModuleScan(
        module,
        is_package,
        tuple(Definition(*definition) for definition in definitions),
        tuple((origin, name, bound) for origin, name, bound in imports),
        None if exported is None else tuple(exported),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector. Syntax trees and JSON have no cycles, and looking for some takes long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
