"""The plan of a comparison: the given indexes by corpus, and the variants that a sweep adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibkd_retrieval.encoders.loading import short_model_name
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.sweep import Sweep, Variant, target_folder, variants
from ibkd_retrieval.files import INDEXES
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.format.manifest import IndexManifest, read_manifest


@dataclass(frozen=True)
class ComparedIndex:
    """An index to compare.

    Attributes:
        folder: the index folder.
        name: name of the system. None makes one from model and index type.
        search_params: search parameters. None is the index's own defaults.
        query_model: a student that encodes the queries instead of the index's own encoder.
        sweep: whether a sweep makes variants of this index.
    """

    folder: Path
    name: str | None = None
    search_params: SearchParams = dataclasses.field(default_factory=SearchParams)
    query_model: str | None = None
    sweep: bool = True


@dataclass(frozen=True)
class PlannedSystem:
    """A system on one corpus.

    Attributes:
        name: name of the system in the report.
        source: the given index that it comes from.
        manifest: manifest of the given index.
        folder: folder of its own index, which may not exist yet.
        variant: the variant of the given index, or None for that index itself.
    """

    name: str
    source: ComparedIndex
    manifest: IndexManifest
    folder: Path
    variant: Variant | None = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.manifest.dim if self.variant is None else self.variant.dim

    @property
    def family(self) -> str:
        """Of the index."""
        return self.manifest.family if self.variant is None else self.variant.family


@dataclass(frozen=True)
class PlannedCorpus:
    """One corpus and the systems on it; the others are compared with the first."""

    corpus: str
    fingerprint: str
    systems: tuple[PlannedSystem, ...]


TOO_FEW = "Give at least two indexes of a corpus as `index`: the teacher's and the student's."
_NUMBERS = ("nprobe", "refine", "ef_search")


def parse_index(text: str) -> ComparedIndex:
    """Understand `FOLDER` or `FOLDER,nprobe=16,name=student`.

    Raises:
        UserError: a setting is unknown, or its value makes no sense.
    """
    if Path(text).is_dir():
        return ComparedIndex(Path(text))
    folder, *settings = text.split(",")
    chosen: dict[str, Any] = {}
    params: dict[str, int] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        key = key.strip().replace("-", "_")
        if key in chosen or key in params or not value.strip():
            raise UserError(f"`index` {text!r}: {setting!r} is no setting: write it once, as in nprobe=16.")
        if key in _NUMBERS:
            if not value.strip().isdecimal():
                raise UserError(f"`index` {text!r}: {setting!r} needs a whole number, as in {key}=16.")
            params[key] = int(value)
        elif key in ("name", "query_model"):
            chosen[key] = value.strip()
        elif key == "sweep" and value.strip() in ("yes", "no"):
            chosen[key] = value.strip() == "yes"
        else:
            raise UserError(
                f"`index` {text!r}: {setting!r} is no setting: there are name, nprobe, refine, ef-search, query-model "
                "and sweep=no."
            )
    return ComparedIndex(Path(folder), search_params=SearchParams(**params), **chosen)


def plan_systems(asked: Sequence[ComparedIndex], sweep: Sweep) -> tuple[PlannedCorpus, ...]:
    """Group indexes by their corpus, add what the sweep makes of them, and name the systems.

    Raises:
        UserError: an index cannot be opened or swept, two systems have one name, or a system is not on every corpus.
    """
    if not asked:
        raise UserError(TOO_FEW)
    manifests = [read_manifest(each.folder) for each in asked]
    fingerprints = list(dict.fromkeys(manifest.corpus.fingerprint for manifest in manifests))
    targets: set[Path] = set()
    corpora = []
    for fingerprint in fingerprints:
        members = [
            PlannedSystem("", index, manifest, index.folder)
            for index, manifest in zip(asked, manifests, strict=True)
            if manifest.corpus.fingerprint == fingerprint
        ]
        systems = _swept(members, sweep, targets)
        name = members[0].manifest.corpus.name
        corpora.append(PlannedCorpus(name, fingerprint, _named(systems, name, len(fingerprints) == 1)))
    return _matched(corpora)


def _swept(named: Sequence[PlannedSystem], sweep: Sweep, targets: set[Path]) -> list[PlannedSystem]:
    """The systems named, each followed by what the sweep makes of it and was not named nor made of another."""
    known = {_vectors(system) for system in named}
    folders = {system.folder.resolve() for system in named}
    systems = []
    for system in named:
        systems.append(system)
        asked, manifest = system.source, system.manifest
        if not asked.sweep:
            continue
        if asked.query_model is not None and sweep.dims:
            raise UserError(
                f"A sweep of dims cuts the vectors of {asked.folder}, and those of its query model stay whole: leave "
                "out one of them, or add sweep=no to that `index`."
            )
        for variant in variants(manifest, asked.folder, sweep):
            # Settings are of one index; each variant follows its own.
            plain = dataclasses.replace(asked, search_params=SearchParams())
            made = PlannedSystem("", plain, manifest, asked.folder, variant)
            if _vectors(made) in known:
                continue
            target = target_folder(INDEXES, asked.folder, manifest, variant, targets)
            if target.resolve() in folders:
                continue
            known.add(_vectors(made))
            targets.add(target)
            systems.append(dataclasses.replace(made, folder=target))
    return systems


def _vectors(system: PlannedSystem) -> tuple[object, ...]:
    """What an index is made of, and who asks it."""
    return system.manifest.encoder.weight_hash, system.dim, system.family, system.source.query_model


def _named(systems: Sequence[PlannedSystem], corpus: str, alone: bool) -> tuple[PlannedSystem, ...]:
    """The systems with names that tell them apart."""
    widest: dict[str, int] = {}
    for system in systems:
        label = _label(system)
        widest[label] = max(widest.get(label, 0), system.dim)
    names = [_name(system, widest[_label(system)]) for system in systems]
    if alone:
        names = [
            name if system.source.name or names.count(name) == 1 else f"{name} ({system.folder.resolve().name})"
            for name, system in zip(names, systems, strict=True)
        ]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two systems on {corpus} are called {name}: add a name to each `index`, as in A,name=small."
            )
    return tuple(dataclasses.replace(system, name=name) for system, name in zip(systems, names, strict=True))


def _label(system: PlannedSystem) -> str:
    """What the encoder is called."""
    if system.source.name is not None:
        return system.source.name
    model = short_model_name(system.manifest.encoder.called)
    return model if system.source.query_model is None else f"{short_model_name(system.source.query_model)} on {model}"


def _name(system: PlannedSystem, widest: int) -> str:
    if system.source.name is not None and system.variant is None:
        return system.source.name
    words = [_label(system)]
    if system.dim < widest:
        words.append(f"{system.dim}d")
    words.append(system.family)
    for setting, value in system.source.search_params.to_json().items():
        if value is not None:
            words.append(f"{setting}={value}")
    return " ".join(words)


def _matched(corpora: Sequence[PlannedCorpus]) -> tuple[PlannedCorpus, ...]:
    """The corpora with their systems in the order of the first one.

    Raises:
        UserError: a system is missing on a corpus, or another system has its name there.
    """
    first, *others = corpora
    matched = [first]
    for corpus in others:
        found = {system.name: system for system in corpus.systems}
        wanted = {system.name: system for system in first.systems}
        for name in dict.fromkeys((*wanted, *found)):
            if (name in wanted) != (name in found):
                has, lacks = (first, corpus) if name in wanted else (corpus, first)
                raise UserError(
                    f"{name} has an index of {has.corpus} and none of {lacks.corpus}: the indexes hold different "
                    "documents, so name one of each system for each corpus (the setting name= says which belong "
                    "together)."
                )
            ours, theirs = wanted[name], found[name]
            if _identity(ours) != _identity(theirs):
                raise UserError(
                    f"{name} is not the same system on {first.corpus} and {corpus.corpus}: model, dimensions, type and "
                    "settings must be alike; give them different names with name=."
                )
        matched.append(dataclasses.replace(corpus, systems=tuple(found[name] for name in wanted)))
    return tuple(matched)


def _identity(system: PlannedSystem) -> tuple[object, ...]:
    return (*_vectors(system), system.source.search_params)
