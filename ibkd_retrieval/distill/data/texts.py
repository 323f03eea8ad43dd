"""The unlabelled text that a student learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress


def text_keys(texts: Sequence[str], prompt: str = "") -> NDArray[np.uint64]:
    """128-bit hashes of prompt + text, [n, 2]. Equal texts have equal keys."""
    out = np.empty((len(texts), 2), dtype=np.uint64)
    for row, text in enumerate(texts):
        digest = hashlib.blake2b((prompt + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        out[row] = np.frombuffer(digest, dtype=np.uint64)
    return out


class KeyIndex:
    """Finds the positions of 128-bit keys, in 24 bytes per key."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        """Sort `keys` [n, 2]. Of equal keys the last one is found."""
        order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
        self._keys = keys[order]
        self._rows = order

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The positions [m] of `keys` [m, 2]. -1 is a key that is not there."""
        out = np.full(len(keys), -1, dtype=np.int64)
        if not len(self._keys):
            return out
        places = np.searchsorted(self._keys[:, 0], keys[:, 0], side="right") - 1
        shared = (places >= 0) & (self._keys[places, 0] == keys[:, 0])
        found = shared & (self._keys[places, 1] == keys[:, 1])
        out[found] = self._rows[places[found]]
        # Different keys with the same first half occur once in millions of corpora.
        for row in np.flatnonzero(shared & ~found):
            first, last = np.searchsorted(self._keys[:, 0], keys[row, 0]), places[row] + 1
            equal = np.flatnonzero(self._keys[first:last, 1] == keys[row, 1])
            out[row] = self._rows[first + equal[-1]] if len(equal) else -1
        return out


@dataclass(frozen=True)
class TrainingTexts:
    """Distinct training texts of both kinds.

    Attributes:
        documents: contents of documents.
        queries: texts of queries.
    """

    documents: tuple[str, ...]
    queries: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.documents) + len(self.queries)

    @property
    def fingerprint(self) -> str:
        """A hex digest of all texts, in order."""
        digest = hashlib.sha256(text_keys(self.documents).tobytes())
        digest.update(b"queries" + text_keys(self.queries).tobytes())
        return digest.hexdigest()

    def without(self, held_out: Collection[str]) -> TrainingTexts:
        """The texts that are not held out."""
        out = set(held_out)
        documents, queries = (
            tuple(text for text in part if text not in out) for part in (self.documents, self.queries)
        )
        return TrainingTexts(documents, queries)

    def spread(self, most: int) -> list[str]:
        """A sample of at most `most` texts, evenly spaced."""
        every = [*self.documents, *self.queries]
        return every[:: max(1, len(every) // most)][:most]


def gather_texts(
    corpus: Corpus,
    queries: QuerySet | None,
    *,
    exclude: Collection[str] = (),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> TrainingTexts:
    """Read the training texts of a corpus and a query set.

    Args:
        corpus: the documents. Empty ones are left out.
        queries: the queries, or None.
        exclude: texts to leave out, because they are part of the dev set.
        limit: maximum number of documents, drawn at random. All queries are taken.
        seed: random seed of the draw.
        progress: receives the number of documents read.

    Raises:
        UserError: nothing is left to learn from.
    """
    if limit is not None and limit < 1:
        raise UserError(f"`max_documents` is {limit}: give at least 1.")
    left_out = {text.strip() for text in exclude}
    # Of a large corpus only hashes are kept in memory, and the texts that are drawn.
    seen: set[bytes] = set()
    reservoir: list[str] = []
    generator = np.random.default_rng(seed)
    with progress.task("reading", corpus.expected, "documents") as task:
        for document in corpus.documents():
            task.advance()
            content = document.content.strip()
            key = text_keys([content]).tobytes()
            if not content or content in left_out or key in seen:
                continue
            seen.add(key)
            if limit is None or len(reservoir) < limit:
                reservoir.append(content)
            elif (position := int(generator.integers(0, len(seen)))) < limit:
                # Reservoir sampling: every document read so far is kept with equal chance.
                reservoir[position] = content
    texts = dict.fromkeys(query.text.strip() for query in queries.queries) if queries else {}
    query_texts = tuple(text for text in texts if text and text not in left_out)
    if not reservoir and not query_texts:
        raise UserError(f"No text to learn from in {corpus.name}: every document is empty or held out.")
    return TrainingTexts(tuple(reservoir), query_texts)
