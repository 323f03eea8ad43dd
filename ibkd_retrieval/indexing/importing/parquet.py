"""Reads vectors from a list column of parquet files, with ids and optional titles, texts and fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import METADATA, Document, checked_id, fields_of
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing import ForeignVectors, VectorBlock

ID_COLUMNS = ("_id", "id", "docid", "doc_id")
TEXT_COLUMNS = ("text", "contents", "body")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "emb")
_BATCH_ROWS = 4096


def open_parquet_vectors(path: Path, files: Sequence[Path]) -> ForeignVectors:
    """Open parquet files with an id column and a list or fixed-size list column of floating-point numbers.

    Args:
        path: the path that the user gave, a file or a folder.
        files: the files, in reading order, with the same columns.

    Raises:
        UserError: a file cannot be read or lacks one of the columns.
    """
    count = 0
    for each in files:
        with open_parquet(each) as file:
            names = file.schema_arrow.names
            id_column(each, names)
            _vector_column(each, file.schema_arrow)
            count += int(file.metadata.num_rows)

    def blocks() -> Iterator[VectorBlock]:
        for each in files:
            yield from _read(each)

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


def _vector_column(path: Path, schema: Any) -> str:
    import pyarrow.types as kinds

    lists = [
        field.name
        for field in schema
        if (kinds.is_list(field.type) or kinds.is_large_list(field.type) or kinds.is_fixed_size_list(field.type))
        and kinds.is_floating(field.type.value_type)
    ]
    found = lists[0] if len(lists) == 1 else _first(VECTOR_COLUMNS, lists)
    if found is None:
        columns = f"the columns {', '.join(lists)}" if lists else "no column"
        raise UserError(
            f"{path} has {columns} of lists of floating-point numbers: name the one with vectors "
            f"{' or '.join(VECTOR_COLUMNS)}."
        )
    return found


def _read(path: Path) -> Iterator[VectorBlock]:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        ids, vectors = id_column(path, names), _vector_column(path, file.schema_arrow)
        title, text = _first(("title",), names), _first(TEXT_COLUMNS, names)
        fields = _first((METADATA,), names)
        row = 0
        wanted = [name for name in (ids, vectors, title, text, fields) if name]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            titles = batch.column(title).to_pylist() if title else [""] * len(batch)
            texts = batch.column(text).to_pylist() if text else [""] * len(batch)
            held = batch.column(fields).to_pylist() if fields else [None] * len(batch)
            documents = [
                Document(
                    checked_id(doc_id, f"{path}, row {row + i + 1}"),
                    texts[i] or "",
                    titles[i] or "",
                    fields_of({METADATA: held[i]}, (METADATA,), f"{path}, row {row + i + 1}"),
                )
                for i, doc_id in enumerate(batch.column(ids).to_pylist())
            ]
            yield VectorBlock(documents, _matrix(batch.column(vectors), f"{path}, column {vectors}", row))
            row += len(batch)


def _matrix(column: Any, where: str, row: int) -> NDArray[np.float32]:
    """The lists of a column as rows [n, dim]."""
    import pyarrow.compute as pc

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
