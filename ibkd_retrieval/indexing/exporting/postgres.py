"""Loads an index into a table of PostgreSQL with pgvector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.contents import IndexContents, Rows
from ibkd_retrieval.indexing.exporting.databases import BEGUN, Existing, ledger_of

_LONGEST_INDEXED = 2000
"""Dimensions of the longest vector that pgvector's HNSW takes."""
_EF_SEARCH = 200


class Postgres:
    """A `databases.Database` of a PostgreSQL table: `id`, `title`, `text`, `metadata` (jsonb) and `embedding`."""

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """What psycopg raises."""
        import psycopg

        return (psycopg.Error,)

    def __init__(self, url: str, table: str, index: IndexContents) -> None:
        import psycopg
        from psycopg import sql

        if urlsplit(url).scheme not in ("postgresql", "postgres"):
            raise UserError("The `url` of pgvector is `postgresql://USER@HOST/DATABASE`: it begins otherwise.")
        self._sql: Any = sql
        self._table, self._ledger = table, ledger_of(table)
        self._dim = index.manifest.dim
        self._connection: Any = psycopg.connect(url, autocommit=True)

    def existing(self) -> Existing | None:
        """The table, and what the ledger says of it."""
        if not self._is_there(self._table):
            return None
        rows = self._value("SELECT count(*) FROM {table}")
        dim = self._value(
            "SELECT max(atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) "
            "AND NOT attisdropped AND format_type(atttypid, NULL) = 'vector'",
            [self._table],
        )
        if not self._is_there(self._ledger):
            return Existing(rows, dim)
        entries = self._execute("SELECT export, shard FROM {ledger}").fetchall()
        return Existing.unfinished(rows, dim, entries)

    def drop(self) -> None:
        """Remove the table and the ledger."""
        self._execute("DROP TABLE IF EXISTS {table}, {ledger}")

    def create(self, export: str) -> None:
        """Make an empty table, and a ledger that names the export."""
        if self._dim > 16_000:
            raise UserError(f"A vector of pgvector has at most 16,000 dimensions, and the index has {self._dim:,}.")
        self._execute("CREATE EXTENSION IF NOT EXISTS vector")
        with self._connection.transaction():
            self._execute("DROP TABLE IF EXISTS {ledger}")
            self._execute("CREATE TABLE {ledger} (export text NOT NULL, shard integer PRIMARY KEY)")
            self._execute("INSERT INTO {ledger} VALUES (%s, %s)", [export, BEGUN])
            self._execute(
                "CREATE TABLE {table} (id text PRIMARY KEY, title text NOT NULL, text text NOT NULL, "
                f"metadata jsonb NOT NULL, embedding vector({self._dim}) NOT NULL)"
            )

    def load(self, export: str, shard: int, rows: Iterable[Rows]) -> None:
        """Copy a shard and write its entry in the ledger, in one transaction."""
        from pgvector.psycopg import register_vector
        from psycopg import DataError

        register_vector(self._connection)
        into = self._statement("COPY {table} (id, title, text, metadata, embedding) FROM STDIN WITH (FORMAT BINARY)")
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                with cursor.copy(into) as copy:
                    copy.set_types(["text", "text", "text", "jsonb", "vector"])
                    for documents, vectors in rows:
                        for (doc_id, text, title, fields), vector in zip(documents, vectors, strict=True):
                            copy.write_row((doc_id, title, text, dict(fields), vector))
                self._execute("INSERT INTO {ledger} VALUES (%s, %s)", [export, shard])
        except DataError as error:
            raise UserError(
                f"PostgreSQL cannot hold a text of shard {shard} ({str(error).splitlines()[0]}): remove such "
                "characters from the corpus."
            ) from error

    def build_index(self) -> str:
        """Index the vectors with HNSW."""
        if self._dim > _LONGEST_INDEXED:
            return ""
        self._execute("CREATE INDEX IF NOT EXISTS {index} ON {table} USING hnsw (embedding vector_ip_ops)")
        self._execute("ANALYZE {table}")
        self._execute(f"SET hnsw.ef_search = {_EF_SEARCH}")
        return f"hnsw.ef_search = {_EF_SEARCH}"

    def count(self) -> int:
        """The number of rows."""
        return int(self._value("SELECT count(*) FROM {table}"))

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[list[str]]:
        """The ids of the k nearest rows for each query."""
        nearest = f"SELECT id FROM {{table}} ORDER BY embedding <#> %s LIMIT {k}"
        return [[row[0] for row in self._execute(nearest, [query]).fetchall()] for query in queries]

    def finish(self) -> None:
        """Remove the ledger."""
        self._execute("DROP TABLE IF EXISTS {ledger}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _is_there(self, table: str) -> bool:
        return bool(self._value("SELECT to_regclass(quote_ident(%s)) IS NOT NULL", [table]))

    def _value(self, statement: str, values: list[Any] | None = None) -> Any:
        return self._execute(statement, values).fetchone()[0]

    def _execute(self, statement: str, values: list[Any] | None = None) -> Any:
        return self._connection.execute(self._statement(statement), values)

    def _statement(self, statement: str) -> Any:
        names = {"table": self._table, "ledger": self._ledger, "index": f"{self._table}_embedding_idx"}
        identifiers = {name: self._sql.Identifier(each) for name, each in names.items()}
        return self._sql.SQL(statement).format(**identifiers)
