"""Loads an index into a table of LanceDB."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.contents import IndexContents, Rows
from ibkd_retrieval.indexing.exporting.databases import BEGUN, Existing, ledger_of
from ibkd_retrieval.indexing.exporting.rows import ArrowRows

_INDEXED = 100_000
"""Rows from which the vectors are indexed. Fewer are searched exactly in milliseconds."""
_NPROBES, _REFINE = 64, 100


class Lance:
    """A `databases.Database` of a LanceDB folder or bucket."""

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """What Lance raises."""
        return OSError, RuntimeError, ValueError

    def __init__(self, url: str, table: str, index: IndexContents) -> None:
        os.environ.setdefault("LANCEDB_LOG", "error")  # Otherwise it warns of each table that it makes.
        import lancedb

        self._database: Any = lancedb.connect(url)
        self._table, self._ledger = table, ledger_of(table)
        self._arrow = ArrowRows(index)

    def existing(self) -> Existing | None:
        """The table, and what the ledger says of it."""
        names = set(self._database.list_tables().tables)
        if self._table not in names:
            return None
        table = self._database.open_table(self._table)
        column = table.schema.field("vector").type if "vector" in table.schema.names else None
        dim = getattr(column, "list_size", None)
        if self._ledger not in names:
            return Existing(table.count_rows(), dim)
        entries = self._database.open_table(self._ledger).to_arrow().to_pylist()
        return Existing.unfinished(table.count_rows(), dim, [(each["export"], each["shard"]) for each in entries])

    def drop(self) -> None:
        """Remove the table and the ledger."""
        self._database.drop_table(self._table, ignore_missing=True)
        self.finish()

    def create(self, export: str) -> None:
        """Make an empty table, and a ledger that names the export."""
        self._database.create_table(self._ledger, [{"export": export, "shard": BEGUN}], mode="overwrite")
        self._database.create_table(self._table, schema=self._arrow.schema)

    def load(self, export: str, shard: int, rows: Iterable[Rows]) -> None:
        """Write a shard in one commit, and then its entry in the ledger."""
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(self._arrow.schema, map(self._arrow.batch, rows))
        table = self._database.open_table(self._table)
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(reader)
        self._database.open_table(self._ledger).add([{"export": export, "shard": shard}])

    def build_index(self) -> str:
        """Index the vectors of a large table with IVF-PQ."""
        from lancedb.index import IvfPq

        table = self._database.open_table(self._table)
        table.optimize()
        if table.count_rows() < _INDEXED:
            return ""
        if not table.list_indices():
            table.create_index("vector", config=IvfPq(distance_type="dot"))
        return f"nprobes={_NPROBES}, refine_factor={_REFINE}"

    def count(self) -> int:
        """The number of rows."""
        return int(self._database.open_table(self._table).count_rows())

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[list[str]]:
        """The ids of the k nearest rows for each query."""
        table = self._database.open_table(self._table)
        answers = []
        for query in queries:
            search = table.search(query).distance_type("dot").nprobes(_NPROBES).refine_factor(_REFINE)
            answers.append([row["id"] for row in search.limit(k).select(["id", "_distance"]).to_list()])
        return answers

    def finish(self) -> None:
        """Remove the ledger."""
        self._database.drop_table(self._ledger, ignore_missing=True)

    def close(self) -> None:
        """Nothing is open between calls."""
