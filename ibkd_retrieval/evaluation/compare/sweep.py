"""Sweeps: variants of one index with fewer dimensions or another index type. Nothing is encoded again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.families import FAMILIES, family_named, family_options
from ibkd_retrieval.indexing.format.layout import MANIFEST, is_free, is_index
from ibkd_retrieval.indexing.format.manifest import IndexManifest, read_manifest
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import TextEncoder

SWEPT = tuple(name for name in FAMILIES if name != "factory")
"""Index types that need no more than their name."""


@dataclass(frozen=True)
class Sweep:
    """The dims and index types of a sweep. Empty keeps those of each index.

    Attributes:
        dims: numbers of leading dimensions to keep.
        types: names of index families.
    """

    dims: tuple[int, ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """Another index of the vectors of one: cut to `dim`, arranged as `family`."""

    dim: int
    family: str


def parse_sweeps(texts: Sequence[str]) -> Sweep:
    """Understand `dims=384,256` and `type=flat,ivf-pq`.

    Raises:
        UserError: a text is neither, names something twice, or an index type that there is not.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        listed = tuple(value.strip() for value in values.split(",") if value.strip())
        if name not in ("dims", "type") or not listed:
            raise UserError(f"`sweep` {text!r} is no sweep: give dims=384,256,128 or type=flat,ivf-pq.")
        if name in found or len(set(listed)) < len(listed):
            raise UserError(f"`sweep` {text!r} names something twice: give each once.")
        found[name] = listed
    wrong = [value for value in found.get("dims", ()) if not value.isdecimal() or int(value) < 1]
    if wrong:
        raise UserError(f"`sweep` dims={wrong[0]} is no number of dimensions: give dims=384,256,128.")
    for name in found.get("type", ()):
        if name not in SWEPT:
            raise UserError(f"`sweep` type={name}: choose among {', '.join(SWEPT)}.")
    return Sweep(tuple(map(int, found.get("dims", ()))), found.get("type", ()))


def variants(manifest: IndexManifest, folder: Path, sweep: Sweep) -> tuple[Variant, ...]:
    """What the sweep asks of one index beyond the index itself.

    Raises:
        UserError: it has fewer dimensions, or too few documents for a type.
    """
    for dim in sweep.dims:
        if dim > manifest.dim:
            raise UserError(
                f"`sweep` dims={dim}: the vectors in {folder} have {manifest.dim} dimensions; sweep up to that."
            )
    for name in sweep.types:
        if family_named(name).suited_to(manifest.document_count, SILENT).name != name:
            raise UserError(
                f"`sweep` type={name}: the {manifest.document_count:,} documents in {folder} are too few for it; leave "
                "it out."
            )
    wanted = [Variant(dim, name) for dim in sweep.dims or (manifest.dim,) for name in sweep.types or (manifest.family,)]
    return tuple(each for each in wanted if each != Variant(manifest.dim, manifest.family))


def target_folder(
    root: Path, source: Path, manifest: IndexManifest, variant: Variant, taken: Collection[Path] = ()
) -> Path:
    """Where a variant of the index in `source` is kept, below `root`: a folder that is free or holds just that.

    Args:
        root: of the folder.
        source: a finished index.
        manifest: its manifest.
        variant: of it.
        taken: folders that will hold something else.

    Raises:
        UserError: other indexes are in the way.
    """
    name = source.resolve().name.removesuffix(f"-{manifest.family}")
    cut = f"-d{variant.dim}" if variant.dim < manifest.dim else ""
    plain = root / f"{name}{cut}-{variant.family}"
    # Indexes of several corpora may have one name in different folders.
    for target in (plain, plain.with_name(f"{plain.name}-{manifest.corpus.fingerprint[:8]}")):
        if target not in taken and _is_free_for(target, manifest, variant):
            return target
    raise UserError(
        f"The sweep would make {plain} of {source}, and another index is there: move that one away, or leave this "
        "sweep out."
    )


def _is_free_for(target: Path, manifest: IndexManifest, variant: Variant) -> bool:
    if is_free(target):
        return True
    if not (target / MANIFEST).exists():
        return is_index(target)  # Begun: `make_variant` goes on with it, or refuses what is not its own.
    held = read_manifest(target)
    return (
        held.corpus.fingerprint == manifest.corpus.fingerprint
        and (held.dim, held.family) == (variant.dim, variant.family)
        and held.family_options == family_options(family_named(variant.family))
        and held.encoder.name == manifest.encoder.name
        and (variant.dim < manifest.dim or held.encoder.weight_hash == manifest.encoder.weight_hash)
    )


def make_variant(
    source: Path, target: Path, variant: Variant, encoder: TextEncoder, progress: Progress = SILENT
) -> IndexManifest:
    """Make a variant of the index in `source`, or find it finished from a run before.

    Args:
        source: a finished index.
        target: where to make it.
        variant: of it.
        encoder: of the source, cut to the variant's dimensions.
        progress: receives progress reports.

    Raises:
        UserError: what `combine_indexes` refuses.
    """
    manifest = read_manifest(source)
    cut = None
    if variant.dim < manifest.dim:
        cut = dataclasses.replace(manifest.encoder, dim=variant.dim, weight_hash=encoder.weight_hash)
    return combine_indexes([source], target, family=variant.family, cut=cut, resume=True, progress=progress)
