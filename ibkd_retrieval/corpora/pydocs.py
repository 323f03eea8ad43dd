"""The corpus `pydocs`: the documentation of the Python packages installed on this machine.

One document for each public module, class, function and method whose docstring has two or more paragraphs. Its query is
the summary, its text the rest; it has no title, since the name would give the query away. Source files are read, never
imported. Whole top-level packages belong to either the train or the test split, by a hash of their name, so a package
stays on its side whatever else is installed.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ibkd_retrieval.corpora import pydocs_sources
from ibkd_retrieval.corpora.pydocs_sources import (
    Definition,
    ModuleScan,
    find_sources,
    installed_roots,
    normalised,
    scan_source,
)
from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, cache_folder
from ibkd_retrieval.progress import SILENT, Progress


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
    return _digest(Path(pydocs_sources.__file__).read_bytes())


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


_Names = dict[str, tuple[str, str]]


def public_definitions(scans: Iterable[ModuleScan]) -> Iterator[tuple[str, Definition]]:
    """Name every definition that can be reached without a component that starts with `_`.

    A definition is known by the shortest of its own dotted path and the packages above it that re-export it
    (`from ._linalg import svd` in `numpy/linalg/__init__.py`); packages elsewhere only borrow it.
    """
    modules = {scan.module: scan for scan in scans}
    bound = _bound_names(modules)
    aliases: dict[tuple[str, str], str] = {}
    for scan in modules.values():
        if scan.is_package and _is_public(scan.module):
            for name, (origin, original) in bound[scan.module].items():
                if not name.startswith("_") and origin.startswith(f"{scan.module}."):
                    alias = f"{scan.module}.{name}"
                    aliases[origin, original] = min(aliases.get((origin, original), alias), alias, key=_by_length)
    for scan in modules.values():
        for definition in scan.definitions:
            top, dot, member = definition.name.partition(".")
            known = [aliases[scan.module, top]] if (scan.module, top) in aliases else []
            if _is_public(scan.module):
                known.append(f"{scan.module}.{top}" if top else scan.module)
            if known:
                yield min(known, key=_by_length) + dot + member, definition


def _is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def _by_length(name: str) -> tuple[int, int, str]:
    return name.count("."), len(name), name


def _bound_names(modules: dict[str, ModuleScan]) -> dict[str, _Names]:
    """Return the names that each module binds by definition or import: module -> name -> (defining module, name there).

    Imports are followed in rounds until nothing new is bound, so circular ones need no special care.
    """
    bound: dict[str, _Names] = {
        scan.module: {
            d.name.partition(".")[0]: (scan.module, d.name.partition(".")[0]) for d in scan.definitions if d.name
        }
        for scan in modules.values()
    }
    changed = True
    while changed:
        changed = False
        for scan in modules.values():
            here = bound[scan.module]
            before = len(here)
            for origin, original, name in scan.imports:
                there = bound.get(origin)
                if there is None:
                    continue
                if original != "*":
                    if original in there:
                        here.setdefault(name, there[original])
                elif there is not here:
                    exported = modules[origin].exported
                    for star in exported if exported is not None else [n for n in there if not n.startswith("_")]:
                        if star in there:
                            here.setdefault(star, there[star])
            changed = changed or len(here) > before
    return bound


SPLITS = ("train", "test")
TEST_SHARE = 0.25
_SALT = b"ibkd pydocs 1:"

# The last result of this process. A corpus and its queries are usually read one after the other.
_entries_read: dict[tuple[Path, ...], tuple[Entry, ...]] = {}


class Entry(NamedTuple):
    """A documented definition. `summary` is empty where another document has the same, so it is no query."""

    doc_id: str
    summary: str
    text: str


def is_pydocs(spec: str) -> bool:
    """Whether a corpus or queries spec means this corpus."""
    return spec.partition(":")[0] == "pydocs"


def open_pydocs(spec: str, progress: Progress = SILENT, roots: Sequence[Path] | None = None) -> Corpus:
    """Open the documents of `pydocs`, `pydocs:train` or `pydocs:test`, sorted by id.

    Args:
        spec: one of the three names.
        progress: where to report the reading of source files, which takes a while the first time.
        roots: folders of packages to read instead of this interpreter's.

    Raises:
        UserError: the split is unknown, or no package there has documentation.
    """
    entries = _entries_of(spec, progress, roots)
    return Corpus(spec, len(entries), lambda: (Document(entry.doc_id, entry.text) for entry in entries))


def read_pydocs_queries(spec: str, progress: Progress = SILENT, roots: Sequence[Path] | None = None) -> QuerySet:
    """Return the summaries of a split as queries. The relevant document of each is its source.

    `pydocs` means `pydocs:test`: the summaries of training packages are for training.

    Raises:
        UserError: as for `open_pydocs`.
    """
    name = "pydocs:test" if spec == "pydocs" else spec
    entries = [entry for entry in _entries_of(name, progress, roots) if entry.summary]
    # The ids differ from document ids, because some tools drop a document with the id of its query.
    queries = tuple(Query(f"q:{entry.doc_id}", entry.summary) for entry in entries)
    judgements = tuple(Judgement(f"q:{entry.doc_id}", entry.doc_id, 1) for entry in entries)
    return QuerySet(name, queries, judgements)


def split_of(package: str) -> str:
    """Return the split of a top-level package, by the SHA-256 of its name alone."""
    number = int.from_bytes(hashlib.sha256(_SALT + package.encode()).digest()[:8], "big")
    return "test" if number < TEST_SHARE * 2**64 else "train"


def select_entries(definitions: Iterable[tuple[str, Definition]]) -> tuple[Entry, ...]:
    """Choose the documents: one per id and one per text, sorted by id.

    Of several that share an id a class or function wins over a module; of several with the same text, but for layout,
    the first by id. Documents with different texts and the same summary all stay, without their summary.
    """
    ordered = sorted(definitions, key=lambda item: (item[0], item[1].name == "", item[1]))
    ids: set[str] = set()
    texts: set[bytes] = set()
    kept: list[tuple[str, Definition, str]] = []
    for doc_id, definition in ordered:
        text = hashlib.sha256(normalised(definition.body).encode("utf-8", "replace")).digest()
        if doc_id not in ids and text not in texts:
            ids.add(doc_id)
            texts.add(text)
            kept.append((doc_id, definition, normalised(definition.summary)))
    count = Counter(summary for _, _, summary in kept)
    return tuple(Entry(doc_id, d.summary if count[summary] == 1 else "", d.body) for doc_id, d, summary in kept)


def _entries_of(spec: str, progress: Progress, roots: Sequence[Path] | None) -> tuple[Entry, ...]:
    _, colon, split = spec.partition(":")
    if colon and split not in SPLITS:
        raise UserError(f"pydocs has no split {split!r}: name pydocs, pydocs:train or pydocs:test.")
    entries = _read_entries(tuple(installed_roots() if roots is None else roots), progress)
    chosen = tuple(e for e in entries if not colon or split_of(e.doc_id.partition(".")[0]) == split)
    if not chosen:
        raise UserError(f"{spec}: no documented Python package is installed on its side; name another `corpus`.")
    return chosen


def _read_entries(roots: tuple[Path, ...], progress: Progress) -> tuple[Entry, ...]:
    if roots not in _entries_read:
        _entries_read.clear()
        _entries_read[roots] = select_entries(public_definitions(scan_installed(roots, progress)))
    return _entries_read[roots]
