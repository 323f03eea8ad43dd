"""Vectors of queries from a file, in the place of an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.columns import QUERY
from ibkd_retrieval.corpora.records import Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing import BLOCK_ROWS, VectorsDigest, alike, checked_lengths

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.indexing.index import StoredIndex
    from ibkd_retrieval.progress import Task


@dataclass(frozen=True)
class QueryVectors:
    """The vectors of queries, by id and by text. It is a `TextEncoder` that knows these queries only.

    Attributes:
        name: the path of the file.
        vectors: float32 [n, dim].
        places: the row of each id.
        contents: the text of each row, "" for none.
        weight_hash: a digest of the vectors.
    """

    name: str
    vectors: NDArray[np.float32]
    places: Mapping[str, int]
    contents: Sequence[str]
    weight_hash: str
    max_length: int = 0
    pooling: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    prompts: Mapping[str, str] = field(default_factory=lambda: {"query": "", "document": ""})

    @classmethod
    def read(cls, path: str | Path) -> QueryVectors:
        """Read a file or folder of vectors (`open_vectors`).

        Raises:
            UserError: there is none, a vector is unfit, or an id has two vectors.
        """
        from ibkd_retrieval.indexing.importing.formats import open_vectors

        places: dict[str, int] = {}
        contents: list[str] = []
        blocks: list[NDArray[np.float32]] = []
        digest, count = VectorsDigest(), 0
        for documents, vectors in open_vectors(path, kind=QUERY, incomplete=True).blocks_of(BLOCK_ROWS):
            checked_lengths(vectors, Path(path), count)
            digest.update(vectors)
            blocks.append(vectors)
            for row, document in enumerate(documents, count):
                if document.doc_id in places:
                    raise UserError(f"{path}: query id {document.doc_id} appears twice; give every query its own.")
                places[document.doc_id] = row
                contents.append(document.content.strip())
            count += len(documents)
        if not blocks:
            raise UserError(f"{path} holds no vectors: there is nothing to search with.")
        return cls(str(path), np.concatenate(blocks), places, contents, digest.hexdigest())

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def queries(self) -> QuerySet:
        """The queries of the file. The id stands for the text of a query without one."""
        return QuerySet(self.name, tuple(Query(name, self.contents[row] or name) for name, row in self.places.items()))

    @cached_property
    def texts(self) -> Mapping[str, int]:
        """The row of each text. Empty if the file holds no texts.

        Raises:
            UserError: a text has two vectors that differ.
        """
        found: dict[str, int] = {}
        for row, text in enumerate(self.contents):
            first = found.setdefault(text, row) if text else row
            if first != row and not alike(self.vectors[first], self.vectors[row]):
                raise UserError(
                    f"Vectors {first + 1:,} and {row + 1:,} in {self.name} belong to the same text and differ: keep "
                    "one of them."
                )
        return found

    def of_queries(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """The vectors [n, dim] of queries: by text where the file holds texts, otherwise by id.

        Raises:
            UserError: a query has none.
        """
        rows = [self._row(query) for query in queries]
        missing = [query for query, row in zip(queries, rows, strict=True) if row is None]
        if missing:
            raise UserError(
                f"{len(missing):,} of {len(queries):,} queries have no vector in {self.name}, such as "
                f"{missing[0].query_id} ({missing[0].text[:60]!r}): give their vectors too, or leave them out."
            )
        return self.vectors[np.array(rows, dtype=np.int64)]

    def encode(self, texts: Sequence[str], kind: Kind = "query", progress: Task | None = None) -> NDArray[np.float32]:
        """The vectors [n, dim] of texts."""
        return self.of_queries([Query(text, text) for text in texts])

    def _row(self, query: Query) -> int | None:
        return self.texts.get(query.text.strip()) if self.texts else self.places.get(query.query_id)


def given_vectors(source: str, index: StoredIndex, known: dict[str, Any]) -> QueryVectors:
    """The vectors of queries in a file, as an encoder that looks them up. It is added to `known` under `source`.

    Raises:
        UserError: they are unfit, or have another dimension than those of the index.
    """
    given: QueryVectors = known.get(source) or QueryVectors.read(source)
    known[source] = given
    if given.dim != index.manifest.dim:
        raise UserError(
            f"{source} holds vectors of {given.dim} dimensions and the index {index.folder} of {index.manifest.dim}: "
            "give query vectors of the model that made the index."
        )
    return given
