"""Loads an index into a collection of Qdrant."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import METADATA
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.contents import IndexContents, Rows
from ibkd_retrieval.indexing.exporting.databases import BEGUN, Existing, ledger_of

_BATCH = 128
"""Points in a request, which Qdrant limits to 32 MB."""
_EF_SEARCH = 200
_DEFAULT_THRESHOLD = 20_000
"""Qdrant's own number of kilobytes of vectors from which a segment is indexed."""
_NAMESPACE = uuid.UUID("8a8cbe9c-02ee-5f4c-9a3a-4a5b3a4f1c52")


class Qdrant:
    """A `databases.Database` of a Qdrant server, or of the folder of its client's local mode.

    A point's id is the UUID of version 5 of the document's id. Its payload has `id`, `title`, `text` and `metadata`.
    """

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """What the client raises."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        return ApiException, QdrantException, OSError, RuntimeError, ValueError

    def __init__(self, url: str, table: str, index: IndexContents) -> None:
        from qdrant_client import QdrantClient, models

        self._is_server = web = url.startswith(("http://", "https://"))
        if not web and ":" in url:
            raise UserError(f"The `url` of qdrant is `http://HOST:6333` or a folder, not {url!r}.")
        self._models: Any = models
        where: dict[str, Any] = (
            {"url": url, "api_key": os.environ.get("QDRANT_API_KEY"), "timeout": 60, "check_compatibility": False}
            if web
            else {"path": url}
        )
        self._client: Any = QdrantClient(**where)
        self._table, self._ledger = table, ledger_of(table)
        self._dim = index.manifest.dim

    def existing(self) -> Existing | None:
        """The collection, and what the ledger says of it."""
        if not self._client.collection_exists(self._table):
            return None
        dim = getattr(self._client.get_collection(self._table).config.params.vectors, "size", None)
        if not self._client.collection_exists(self._ledger):
            return Existing(self.count(), dim)
        entries, offset = [], None
        while True:
            page, offset = self._client.scroll(self._ledger, limit=1000, offset=offset)
            entries += [(each.payload["export"], each.payload["shard"]) for each in page]
            if offset is None:
                break
        return Existing.unfinished(self.count(), dim, entries)

    def drop(self) -> None:
        """Remove the collection and the ledger."""
        self._client.delete_collection(self._table)
        self.finish()

    def create(self, export: str) -> None:
        """Make an empty collection that is not indexed yet, and a ledger that names the export."""
        models = self._models
        self.finish()
        self._client.create_collection(self._ledger, vectors_config={})
        self._record(export, BEGUN)
        self._client.create_collection(
            self._table,
            vectors_config=models.VectorParams(size=self._dim, distance=models.Distance.DOT),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        )

    def load(self, export: str, shard: int, rows: Iterable[Rows]) -> None:
        """Write the points of a shard, and then its entry in the ledger."""
        for points in self._points(rows):
            self._client.upsert(self._table, points, wait=True)
        self._record(export, shard)

    def _points(self, rows: Iterable[Rows]) -> Iterator[Any]:
        for documents, vectors in rows:
            for start in range(0, len(documents), _BATCH):
                part = documents[start : start + _BATCH]
                yield self._models.Batch(
                    ids=[str(uuid.uuid5(_NAMESPACE, document.doc_id)) for document in part],
                    vectors=vectors[start : start + _BATCH].tolist(),
                    payloads=[
                        {"id": doc_id, "title": title, "text": text, METADATA: dict(fields)}
                        for doc_id, text, title, fields in part
                    ],
                )

    def build_index(self) -> str:
        """Let the server index the segments, and wait until it has. The local mode searches exactly."""
        if not self._is_server:
            return ""
        models = self._models
        threshold = models.OptimizersConfigDiff(indexing_threshold=_DEFAULT_THRESHOLD)
        self._client.update_collection(self._table, optimizers_config=threshold)
        while self._client.get_collection(self._table).status == models.CollectionStatus.YELLOW:
            time.sleep(0.5)
        return f"hnsw_ef={_EF_SEARCH}"

    def count(self) -> int:
        """The number of points."""
        return int(self._client.count(self._table, exact=True).count)

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[list[str]]:
        """The ids of the k nearest documents for each query."""
        models = self._models
        params = models.SearchParams(hnsw_ef=_EF_SEARCH) if self._is_server else None
        requests = [
            models.QueryRequest(query=query.tolist(), limit=k, params=params, with_payload=["id"]) for query in queries
        ]
        answers = self._client.query_batch_points(self._table, requests)
        return [[point.payload["id"] for point in answer.points] for answer in answers]

    def finish(self) -> None:
        """Remove the ledger."""
        if self._client.collection_exists(self._ledger):
            self._client.delete_collection(self._ledger)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _record(self, export: str, shard: int) -> None:
        entry = self._models.PointStruct(id=shard + 1, vector={}, payload={"export": export, "shard": shard})
        self._client.upsert(self._ledger, [entry], wait=True)
