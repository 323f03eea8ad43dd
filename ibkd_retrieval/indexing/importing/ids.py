"""Reads document ids from a file: one per line, or a column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ibkd_retrieval.corpora.formats import format_suffix, read_lines
from ibkd_retrieval.corpora.records import checked_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing.parquet import id_column, open_parquet

_BATCH_ROWS = 65536


def read_ids(path: Path) -> Iterator[str]:
    """Read the ids of a file in its order, never holding them all.

    A parquet file gives its id column (`_id`, `id`, `docid` or `doc_id`, or its only one), a `.tsv` its first column,
    and any other file its lines. `.gz` and `.zst` are decompressed.

    Raises:
        UserError: the file cannot be read, or an id is empty or holds white space.
    """
    if path.suffix == ".parquet":
        yield from _of_parquet(path)
        return
    first_column = format_suffix(path) == ".tsv"
    for number, line in read_lines(path):
        text = line.split("\t", 1)[0] if first_column else line.strip()
        yield checked_id(text, f"{path}, line {number}")


def count_ids(path: Path) -> int:
    """How many ids `read_ids` gives."""
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    return sum(1 for _ in read_lines(path))


def require_as_many(vectors: int, path: Path, ids: Path) -> None:
    """Refuse a list of ids that cannot belong to `vectors` vectors in `path`.

    Raises:
        UserError: the numbers differ.
    """
    listed = count_ids(ids)
    if listed != vectors:
        raise UserError(
            f"{path} holds {vectors:,} vectors and {ids} lists {listed:,} ids: give one id for each vector, in the "
            "same order."
        )


def _of_parquet(path: Path) -> Iterator[str]:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        column = names[0] if len(names) == 1 else id_column(path, names)
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield checked_id(value, f"{path}, row {number}")
