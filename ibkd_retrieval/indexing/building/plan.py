"""What an index is built of, and the check whether a build may start or resume in a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document, is_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import make_folder, write_json
from ibkd_retrieval.indexing.families import FAMILIES, Family, family_named, family_options
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.format.manifest import EncoderRecord, read_manifest
from ibkd_retrieval.json_io import decode, parse
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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


_AT_ONCE = 64
"""Documents that are hashed in one piece."""
_LENGTH = struct.Struct("<Q")


class Fingerprint:
    """SHA-256 over ids, contents and fields of documents in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, documents: Iterable[Document]) -> None:
        """Add the next documents."""
        for data in fingerprinted(documents):
            self.update(data)

    def update(self, data: bytes | memoryview) -> None:
        """Add what `fingerprinted` gives of the next documents."""
        self._digest.update(data)

    def hexdigest(self) -> str:
        """64 hex digits for the documents so far."""
        return self._digest.hexdigest()


def fingerprinted(documents: Iterable[Document]) -> Iterator[bytes]:
    """What a fingerprint is the hash of, in pieces of some documents each."""
    unread = iter(documents)
    while batch := list(islice(unread, _AT_ONCE)):
        yield b"".join(map(fingerprinted_document, batch))


def fingerprinted_document(document: Document) -> bytes:
    """What the fingerprint of a document alone is the hash of."""
    # Lone surrogates, which JSON can carry, have no UTF-8 bytes but must not stop a build.
    doc_id = document.doc_id.encode("utf-8", "surrogatepass")
    content = document.content.encode("utf-8", "surrogatepass")
    # The lengths keep ("ab", "c") apart from ("a", "bc").
    data = b"%b%b%b%b" % (_LENGTH.pack(len(doc_id)), doc_id, _LENGTH.pack(len(content)), content)
    if document.fields:
        fields = json.dumps(dict(document.fields), sort_keys=True).encode()
        data += _LENGTH.pack(len(fields)) + fields
    return data


def fingerprint(documents: Iterable[Document]) -> str:
    """The fingerprint of a corpus, as an index manifest records it."""
    result = Fingerprint()
    result.add(documents)
    return result.hexdigest()


def hash_id(doc_id: str) -> int:
    """64 bits of BLAKE2b of a document id."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "little")


_MOST_SORTED = 1 << 26
"""Hashes in an array that is not merged with others, which takes twice its memory for a moment."""


class IdGuard:
    """Refuses invalid and repeated ids, with eight bytes of memory per document.

    Hashes of the ids are kept in sorted arrays. Arrays are merged when the newer one is as long as the older one, so
    each hash moves a logarithmic number of times. If hashes are equal, the stored ids are compared.
    """

    def __init__(self, corpus: str, hash_id: Callable[[str], int] = hash_id) -> None:
        self._corpus = corpus
        self._hash_id = hash_id
        self._sorted: list[NDArray[np.uint64]] = []
        self._count = 0

    def admit(self, ids: Sequence[str], stored: Callable[[], Iterator[str]]) -> None:
        """Check the ids of the next documents and remember them.

        Args:
            ids: ids of the documents that follow those admitted so far.
            stored: reads all ids admitted so far, in order. It is called only if a hash was seen before.

        Raises:
            UserError: an id is empty, is no id (`records.is_id`), cannot be written as UTF-8 or was used before.
        """
        self._check_form(ids)
        here: dict[str, int] = {}
        repeated = next((i for i, doc_id in enumerate(ids) if here.setdefault(doc_id, i) != i), None)
        if repeated is not None:
            raise self._twice(ids[repeated], self._count + here[ids[repeated]], self._count + repeated)
        hashes = np.sort(np.fromiter((self._hash_id(doc_id) for doc_id in ids), np.uint64, len(ids)))
        if any(_intersects(seen, hashes) for seen in self._sorted):
            for position, doc_id in enumerate(stored()):
                if doc_id in here:
                    raise self._twice(doc_id, position, self._count + here[doc_id])
        self.remember(hashes)

    def are_new(self, hashes: NDArray[np.uint64]) -> bool:
        """Whether sorted hashes differ from each other and from those remembered, so that the ids do as well."""
        return bool(np.all(hashes[1:] != hashes[:-1])) and not any(_intersects(seen, hashes) for seen in self._sorted)

    def remember(self, hashes: NDArray[np.uint64]) -> None:
        """Remember the sorted hashes of the ids of the next documents, which are fit and new."""
        self._sorted.append(hashes)
        while len(self._sorted) > 1 and _MOST_SORTED > len(self._sorted[-1]) >= len(self._sorted[-2]):
            merged = np.concatenate([self._sorted.pop(-2), self._sorted.pop()])
            merged.sort(kind="stable")
            self._sorted.append(merged)
        self._count += len(hashes)

    def _check_form(self, ids: Sequence[str]) -> None:
        for position, doc_id in enumerate(ids, start=self._count + 1):
            if not is_id(doc_id):
                fault = "has white space in its id" if doc_id else "has an empty id"
            elif not _is_utf8(doc_id):
                fault = "has an id that cannot be written as UTF-8,"
            else:
                continue
            raise UserError(
                f"Document {position:,} of {self._corpus} {fault} {doc_id!r}, which no line of ids can hold: "
                "give it an id without line breaks, tabs and spaces at its ends."
            )

    def _twice(self, doc_id: str, first: int, second: int) -> UserError:
        return UserError(
            f"The document id {doc_id!r} appears twice in {self._corpus}, as documents {first + 1:,} and "
            f"{second + 1:,}: give every document an id of its own."
        )


class TakenIds:
    """Refuses ids that an index holds already, with eight bytes of memory per id."""

    def __init__(self, stored: Callable[[], Iterator[str]], refusal: Callable[[str], UserError]) -> None:
        """`stored` reads the ids held. `refusal` makes the error for an id that comes again."""
        self._stored = stored
        self._refusal = refusal
        self._hashes = np.sort(np.fromiter(map(hash_id, stored()), np.uint64))

    def are_new(self, hashes: NDArray[np.uint64]) -> bool:
        """Whether none of the hashes is that of an id held."""
        return not _intersects(self._hashes, hashes)

    def refuse(self, ids: Sequence[str]) -> None:
        """Raise the refusal if one of `ids` is held.

        Raises:
            UserError: an id is held.
        """
        if self.are_new(np.fromiter(map(hash_id, ids), np.uint64, len(ids))):
            return
        here = set(ids)
        for doc_id in self._stored():
            if doc_id in here:
                raise self._refusal(doc_id)


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _intersects(seen: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> bool:
    places = np.searchsorted(seen, hashes)
    inside = places < len(seen)
    return bool(np.any(seen[places[inside]] == hashes[inside]))
