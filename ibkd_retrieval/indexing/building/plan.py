"""The plan of a build, and the check whether a build may start or resume in a folder."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.files import make_folder, write_json
from ibkd_retrieval.indexing.families import FAMILIES, Family, family_named, family_options
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.manifest import EncoderRecord, read_manifest
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class BuildPlan:
    """`build.json`, which is written first. A resumed build must agree with it.

    Attributes:
        shard_size: maximum number of documents in a shard.
        shard_text: maximum number of characters in a shard. None is no limit.
        vector_format: format of the stored vectors.
        family: the name of the family. None if it is chosen by trial, and in older plans.
        family_options: the family's options.
    """

    corpus: str
    encoder: EncoderRecord
    shard_size: int
    shard_text: int | None = None
    vector_format: str = "float32"
    family: str | None = None
    family_options: dict[str, int | float | str | bool | None] = field(default_factory=dict)


def claim(folder: Path, plan: BuildPlan, resume: bool, overwrite: bool, progress: Progress) -> BuildPlan:
    """Prepare `folder` and return the plan to follow: the given one, or that of the resumed build.

    Raises:
        UserError: the folder is taken, or holds a build by another encoder or of a newer format.
    """
    if _goes_on(folder, resume, overwrite):
        layout.remove_leftovers(folder)
        return _resumed_plan(folder, plan, progress)
    make_folder(folder)
    for path in folder.glob(f".{layout.PLAN}.*.tmp"):
        path.unlink()
    write_plan(folder / layout.PLAN, plan)
    return plan


def noted_family(family: Family) -> dict[str, Any]:
    """The plan's fields for a family. A family still to be chosen by trial has none."""
    named = family.name in FAMILIES
    return {"family": family.name if named else None, "family_options": family_options(family) if named else {}}


def begun_family(folder: Path) -> Family | None:
    """The family of the index in `folder`, finished or not. None if it is unknown."""
    try:
        manifest = read_manifest(folder)
        return family_named(manifest.family, **manifest.family_options)
    except UserError:
        pass  # Unfinished or absent. A resumed build reports the error.
    try:
        plan = decode(BuildPlan, parse((folder / layout.PLAN).read_bytes()))
        return None if plan.family is None else family_named(plan.family, **plan.family_options)
    except (OSError, ValueError, UserError):
        return None


def begun_encoder(folder: Path) -> EncoderRecord | None:
    """The encoder of the build that was begun in `folder`. None without a readable plan."""
    try:
        return decode(BuildPlan, parse((folder / layout.PLAN).read_bytes())).encoder
    except (OSError, ValueError):
        return None


def _goes_on(folder: Path, resume: bool, overwrite: bool) -> bool:
    """Whether `folder` holds an index to resume. If not, it is free on return, and cleared on request."""
    if layout.is_free(folder):
        return False
    if overwrite:
        layout.clear(folder)
        return False
    if not layout.is_index(folder):
        raise UserError(f"{folder} is not empty and holds no index: name a new or an empty folder with `output`.")
    if resume:
        return True
    if (folder / layout.MANIFEST).exists():
        raise UserError(f"{folder} already holds a finished index: replace it with `overwrite`.")
    raise UserError(f"{folder} holds an unfinished index: continue with `resume` or replace with `overwrite`.")


def _resumed_plan(folder: Path, plan: BuildPlan, progress: Progress) -> BuildPlan:
    if (folder / layout.MANIFEST).exists():
        read_manifest(folder)  # An index of a newer format must not be repaired.
    path = folder / layout.PLAN
    try:
        begun = decode(BuildPlan, parse(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): index anew with `overwrite`.") from error
    if not begun.encoder.makes_the_vectors_of(plan.encoder):
        raise UserError(
            f"The index in {folder} was begun with the model {begun.encoder.name} and {plan.encoder.name} would give "
            f"other vectors ({differing_fields(begun.encoder, plan.encoder)} differ): resume with the same "
            "model, or use `overwrite`."
        )
    if begun.vector_format != plan.vector_format:
        raise UserError(
            f"The index in {folder} was begun with vectors in {begun.vector_format}: resume with "
            f"`vectors='{begun.vector_format}'`, or use `overwrite`."
        )
    if begun.shard_size != plan.shard_size:
        progress.say(f"Continuing with shards of {begun.shard_size:,} documents, as the build began.")
    if (plan.family, plan.family_options) != (begun.family, begun.family_options):
        begun = dataclasses.replace(begun, family=plan.family, family_options=plan.family_options)
        write_plan(folder / layout.PLAN, begun)
    return dataclasses.replace(begun, corpus=plan.corpus)


def write_plan(path: Path, plan: DataclassInstance) -> None:
    """Write the plan of a build into its folder."""
    write_json(path, {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION, **dataclasses.asdict(plan)})


def differing_fields(one: EncoderRecord, other: EncoderRecord) -> str:
    """The fields in which two encoders differ, for a sentence."""
    names = [field.name for field in dataclasses.fields(EncoderRecord) if field.compare]
    return ", ".join(name for name in names if getattr(one, name) != getattr(other, name))


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
