"""Fingerprints of the documents of an index, and the check that ids are unique."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError


class Fingerprint:
    """SHA-256 over ids, contents and fields of documents in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, documents: Iterable[Document]) -> None:
        """Add the next documents."""
        for document in documents:
            fields = json.dumps(dict(document.fields), sort_keys=True) if document.fields else None
            for text in (document.doc_id, document.content, *([fields] if fields else ())):
                # Lone surrogates, which JSON can carry, have no UTF-8 bytes but must not stop a build.
                data = text.encode("utf-8", "surrogatepass")
                # The length keeps ("ab", "c") apart from ("a", "bc").
                self._digest.update(len(data).to_bytes(8, "little"))
                self._digest.update(data)

    def hexdigest(self) -> str:
        """64 hex digits for the documents so far."""
        return self._digest.hexdigest()


def fingerprint(documents: Iterable[Document]) -> str:
    """The fingerprint of a corpus, as an index manifest records it."""
    result = Fingerprint()
    result.add(documents)
    return result.hexdigest()


def chained_fingerprint(before: str, change: str, what: str) -> str:
    """The fingerprint of a corpus after a change: the same changes, in the same order, give the same one."""
    return hashlib.sha256(f"{before} {change} {what}".encode()).hexdigest()


def hash_id(doc_id: str) -> int:
    """64 bits of BLAKE2b of a document id."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "little")


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
            stored: reads all ids admitted so far, in order; called only where a hash has been seen before.

        Raises:
            UserError: an id is empty, has white space, cannot be written as UTF-8 or was used before.
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
        self._sorted.append(hashes)
        while len(self._sorted) > 1 and len(self._sorted[-1]) >= len(self._sorted[-2]):
            newer, older = self._sorted.pop(), self._sorted.pop()
            self._sorted.append(np.sort(np.concatenate([older, newer]), kind="stable"))
        self._count += len(ids)

    def _check_form(self, ids: Sequence[str]) -> None:
        for position, doc_id in enumerate(ids, start=self._count + 1):
            if doc_id.split() != [doc_id]:
                fault = "has white space in its id" if doc_id else "has an empty id"
            elif not _is_utf8(doc_id):
                fault = "has an id that cannot be written as UTF-8,"
            else:
                continue
            raise UserError(
                f"Document {position:,} of {self._corpus} {fault} {doc_id!r}, which no run file can hold: "
                "give it an id without spaces."
            )

    def _twice(self, doc_id: str, first: int, second: int) -> UserError:
        return UserError(
            f"The document id {doc_id!r} appears twice in {self._corpus}, as documents {first + 1:,} and "
            f"{second + 1:,}: give every document an id of its own."
        )


class TakenIds:
    """Refuses ids that an index holds already, with eight bytes of memory per id."""

    def __init__(self, stored: Callable[[], Iterator[str]], refusal: Callable[[str], UserError]) -> None:
        """Take a way to read the ids held, and what to say of one that comes again."""
        self._stored = stored
        self._refusal = refusal
        self._hashes = np.sort(np.fromiter(map(hash_id, stored()), np.uint64))

    def refuse(self, ids: Sequence[str]) -> None:
        """Raise the refusal if one of `ids` is held.

        Raises:
            UserError: an id is held.
        """
        if not _intersects(self._hashes, np.fromiter(map(hash_id, ids), np.uint64, len(ids))):
            return
        here = set(ids)
        for doc_id in self._stored():
            if doc_id in here:
                raise self._refusal(doc_id)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _intersects(seen: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> bool:
    places = np.searchsorted(seen, hashes)
    inside = places < len(seen)
    return bool(np.any(seen[places[inside]] == hashes[inside]))
