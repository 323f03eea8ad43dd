"""Reads vectors from a list column of parquet files, with ids and optional titles, texts and fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.columns import AUTOMATIC, DOCUMENT, Fields, Kind, listed, normalised
from ibkd_retrieval.corpora.records import METADATA, Document, checked_id, fields_of
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing import ForeignVectors, VectorBlock

ID_COLUMNS = ("_id", "id", "docid", "doc_id")
TEXT_COLUMNS = ("text", "contents", "body")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "emb")
_BATCH_ROWS = 4096


class _Columns(NamedTuple):
    """The columns that are read. Without an id column, the ids are the numbers of the rows."""

    ids: str | None
    title: str | None
    texts: tuple[str, ...]
    fields: str | None
    vectors: str

    @property
    def names(self) -> list[str]:
        return [name for name in (self.ids, self.title, *self.texts, self.fields, self.vectors) if name is not None]


def open_parquet_vectors(
    path: Path,
    files: Sequence[Path],
    kind: Kind = DOCUMENT,
    fields: Fields = AUTOMATIC,
    *,
    vector_field: str | None = None,
    incomplete: bool = False,
) -> ForeignVectors:
    """Open parquet files with an id column and a list or fixed-size list column of floating-point numbers.

    Args:
        path: the path that the user gave, a file or a folder.
        files: the files, in reading order, with the same columns.
        kind: what the texts are. It decides the usual names of the columns.
        fields: columns that have other names.
        vector_field: the column of the vectors. None takes the only one, or one of a usual name.
        incomplete: leave out rows without a vector, and number the rows if there are texts and no id column.

    Raises:
        UserError: a file cannot be read or lacks one of the columns.
    """
    count = 0
    columns: list[_Columns] = []
    for each in files:
        with open_parquet(each) as file:
            columns.append(_columns(each, file.schema_arrow, kind, fields, vector_field, numbered=incomplete))
            count += int(file.metadata.num_rows)

    def blocks() -> Iterator[VectorBlock]:
        before = 0
        for each, chosen in zip(files, columns, strict=True):
            for documents, vectors, rows in _read(each, chosen, before, incomplete):
                before += rows
                if documents:
                    yield VectorBlock(documents, vectors)

    return ForeignVectors(path, count, blocks)


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile`.

    Raises:
        UserError: it cannot be read, now or later.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as parquet ({reason}): fetch or write it again.") from None


def id_column(path: Path, names: Sequence[str]) -> str:
    """The column that holds the ids.

    Raises:
        UserError: there is none of the known names.
    """
    found = _first(ID_COLUMNS, names)
    if found is None:
        raise UserError(f"{path} has the columns {', '.join(names)}: name the one with ids {' or '.join(ID_COLUMNS)}.")
    return found


def _vector_column(path: Path, schema: Any, chosen: str | None = None) -> str:
    import pyarrow.types as kinds

    lists = [
        field.name
        for field in schema
        if (kinds.is_list(field.type) or kinds.is_large_list(field.type) or kinds.is_fixed_size_list(field.type))
        and kinds.is_floating(field.type.value_type)
    ]
    if chosen is not None and chosen not in lists:
        raise UserError(
            f"{path}: there is no column {chosen} of lists of floating-point numbers for `vector_field`; there are "
            f"{listed(lists) or 'none'}."
        )
    found = chosen or (lists[0] if len(lists) == 1 else _first(VECTOR_COLUMNS, lists))
    if found is None:
        columns = f"the columns {', '.join(lists)}" if lists else "no column"
        raise UserError(
            f"{path} has {columns} of lists of floating-point numbers: name the one with vectors "
            f"{' or '.join(VECTOR_COLUMNS)}."
        )
    return found


def _columns(
    path: Path, schema: Any, kind: Kind, fields: Fields, vector_field: str | None, *, numbered: bool
) -> _Columns:
    """The columns to read: those that the user chose, and others by their usual names.

    Raises:
        UserError: one that is chosen or needed is not there.
    """
    import pyarrow.types as kinds

    names, vectors = schema.names, _vector_column(path, schema, vector_field)
    for parameter, chosen in (
        ("id_field", (fields.id_field,)),
        ("text_field", fields.text_field),
        ("title_field", (fields.title_field,)),
    ):
        for name in chosen:
            if name is not None and name not in names:
                raise UserError(f"{path}: there is no column {name} for `{parameter}`; there are {listed(names)}.")
    usual = {normalised(name): name for name in reversed(names)} | {name: name for name in names}
    words = {
        usual_name: name
        for usual_name, name in usual.items()
        if kinds.is_string(schema.field(name).type) or kinds.is_large_string(schema.field(name).type)
    }
    ids = fields.id_field or _named((*ID_COLUMNS, *kind.ids), usual)
    texts = fields.text_field or tuple(filter(None, [_named((*TEXT_COLUMNS, *kind.texts), words, ids)]))
    if ids is None and not (numbered and texts):
        ids = id_column(path, names)
    title = fields.title_field or (None if fields.text_field else _named(kind.titles, words, ids, *texts))
    return _Columns(ids, title, texts, METADATA if METADATA in names else None, vectors)


def _named(wanted: Sequence[str], names: Mapping[str, str], *taken: str | None) -> str | None:
    """The first of the wanted columns that is there and not taken."""
    return next((names[name] for name in wanted if name in names and names[name] not in taken), None)


def _read(
    path: Path, columns: _Columns, before: int, incomplete: bool
) -> Iterator[tuple[list[Document], NDArray[np.float32], int]]:
    """Documents, vectors and the number of rows of each batch. `before` rows were read of other files."""
    with open_parquet(path) as file:
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns.names):
            rows, size = row, len(batch)
            vectors = batch.column(columns.vectors)
            kept = _with_vector(vectors) if incomplete else np.arange(size)
            if len(kept) < size:
                batch = batch.take(kept)
                vectors = batch.column(columns.vectors)
            ids = batch.column(columns.ids).to_pylist() if columns.ids else [before + row + int(i) + 1 for i in kept]
            titles = batch.column(columns.title).to_pylist() if columns.title else [""] * len(kept)
            parts = [batch.column(name).to_pylist() for name in columns.texts]
            held = batch.column(columns.fields).to_pylist() if columns.fields else [None] * len(kept)
            documents = []
            for i, place in enumerate(kept.tolist()):
                where = f"{path}, row {rows + place + 1}"
                text = " ".join(str(part[i]) for part in parts if part[i] not in (None, ""))
                more = fields_of({METADATA: held[i]}, (METADATA,), where)
                documents.append(Document(checked_id(ids[i], where), text, titles[i] or "", more))
            yield documents, _matrix(vectors, f"{path}, column {columns.vectors}", rows), size
            row += size


def _with_vector(column: Any) -> NDArray[np.int64]:
    """The places of the rows that have a vector."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.flatnonzero(lengths > 0)


def _matrix(column: Any, where: str, row: int) -> NDArray[np.float32]:
    """The lists of a column as rows [n, dim]."""
    import pyarrow.compute as pc

    if not len(column):
        return np.empty((0, 0), dtype=np.float32)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~(lengths == lengths[:1]) | ~(lengths > 0))
    if len(wrong):
        raise UserError(
            f"{where}, row {row + int(wrong[0]) + 1}: the vector is missing or has another length than the first "
            "of its block: give every document a vector of the same length."
        )
    return np.array(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(column), -1)


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
