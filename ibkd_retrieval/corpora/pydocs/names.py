"""The public names of definitions: `numpy.linalg.svd`, not `numpy.linalg._linalg.svd`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ibkd_retrieval.corpora.pydocs.sources import Definition, ModuleScan

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
