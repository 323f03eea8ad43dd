"""Documents and queries in one file: JSON lines, tab-separated columns, parquet, or one text a line.

- `.jsonl`, `.ndjson`, `.json`: an object a line. A document has an id (`_id`, `id`, `docid` or `doc_id`), a text
  (`text`, `contents` or `body`) and maybe a `title`; a query has an id (`_id`, `id`, `qid` or `query_id`) and a text
  (`text` or `query`).
- `.parquet`: the same names, as columns.
- `.tsv`: `id<TAB>text`, for documents also `id<TAB>title<TAB>text`; the first line decides.
- `.txt`: one text a line, its id the line's number. Where the first line is `id<TAB>text`, as in MS MARCO's topics
  files, the file is read as `.tsv`.

All but parquet may be compressed (`.gz`, `.zst`).

What else a JSON line or a parquet row says of a document is kept in `Document.fields`, for filters: every further key
whose value is a text, a number or a boolean, and such entries of a `metadata` object, as BEIR has it (a key beside it
goes before one of the same name within). Dates and times of parquet become ISO 8601 text. Nulls, numbers that are not
finite, lists and other objects are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.lines import checked_id, encodable, format_suffix, read_lines
from ibkd_retrieval.corpora.records import METADATA, NO_FIELDS, Document, FieldValue, Query, fields_of
from ibkd_retrieval.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".tsv", ".txt", ".parquet")

_ID_AND_TEXT = re.compile(r"\S+\t\s*\S")
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class FieldNames:
    """The names under which one kind of record keeps its fields, the preferred name first."""

    kind: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    title: str | None


DOCUMENT = FieldNames("document", ("_id", "id", "docid", "doc_id"), ("text", "contents", "body"), "title")
QUERY = FieldNames("query", ("_id", "id", "qid", "query_id"), ("text", "query"), None)
_Row = tuple[str, str, str, Mapping[str, FieldValue]]  # id, title, text, fields


def is_tabular(path: Path) -> bool:
    """Whether the file's name ends in a suffix that `read_documents` knows."""
    return format_suffix(path) in SUFFIXES


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of one file, in the file's order, never holding them all.

    Raises:
        UserError: the suffix is unknown, the file holds no document, or a line is malformed; it names file and line.
    """
    for doc_id, title, text, fields in _read(path, DOCUMENT):
        yield Document(doc_id, text, title, fields)


def read_queries(path: Path) -> Iterator[Query]:
    """Read the queries of one file, in the file's order.

    Raises:
        UserError: as for `read_documents`, and where a query is empty.
    """
    for query_id, _, text, _ in _read(path, QUERY):
        yield Query(query_id, text)


def _read(path: Path, fields: FieldNames) -> Iterator[_Row]:
    readers: dict[str, Callable[[Path, FieldNames], Iterator[_Row]]] = {
        ".tsv": _read_tsv,
        ".txt": _read_txt,
        ".parquet": _read_parquet,
    }
    suffix = format_suffix(path)
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; name it {', '.join(SUFFIXES)} (.gz or .zst may follow).")
    count = 0
    for row in readers.get(suffix, _read_jsonl)(path, fields):
        count += 1
        yield row
    if not count:
        plural = "queries" if fields is QUERY else "documents"
        raise UserError(f"no {plural} in {path}: the file is empty.")


def _read_jsonl(path: Path, fields: FieldNames) -> Iterator[_Row]:
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); expected one JSON object on each line.") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object with an id and a text, found {type(record).__name__}.")
        yield row_of(record, fields, where)


def _read_tsv(path: Path, fields: FieldNames) -> Iterator[_Row]:
    with_title = fields.title is not None
    columns = 0
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        cells = line.split("\t")
        columns = columns or len(cells)
        if len(cells) != columns or not 2 <= len(cells) <= 2 + with_title:
            expected = "id<TAB>text" + (" or id<TAB>title<TAB>text" if with_title else "")
            same = " on every line" if len(cells) != columns else ""
            raise UserError(f"{where}: expected {expected}{same}, found {len(cells)} column{'s' * (len(cells) > 1)}.")
        yield checked_id(cells[0], where), cells[1] if columns == 3 else "", _text(cells[-1], fields, where), NO_FIELDS


def _read_txt(path: Path, fields: FieldNames) -> Iterator[_Row]:
    lines = read_lines(path)
    for number, line in lines:
        if number == 1 and _ID_AND_TEXT.match(line):
            yield from _read_tsv(path, fields)
            return
        yield str(number), "", line.strip(), NO_FIELDS


def _read_parquet(path: Path, fields: FieldNames) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = {*fields.ids, *fields.texts, fields.title}
            columns = [
                column.name
                for column in file.schema_arrow
                if column.name in known or (fields is DOCUMENT and _holds_fields(column))
            ]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for record in _with_microseconds(batch).to_pylist():
                    number += 1
                    yield row_of(record, fields, f"{path}, row {number}")
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as parquet ({reason}): fetch or write it again.") from None


def _holds_fields(column: Any) -> bool:
    """Whether a parquet column may hold values of fields; others (embeddings, lists) are not even read."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_struct(kind):
        return bool(column.name == METADATA)
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(texts or numbers or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _with_microseconds(batch: Any) -> Any:
    """The batch with times in whole microseconds: Python has no finer ones."""
    import pyarrow as pa

    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            coarser = batch.column(place).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(place, column.name, coarser)
    return batch


def row_of(record: Mapping[str, Any], fields: FieldNames, where: str) -> _Row:
    """The id, title, text and further fields of one record.

    Raises:
        UserError: it has no id or no text, or one of another type.
    """
    id_name = _name(record, fields.ids, "id", where)
    record_id = checked_id(record[id_name], where)
    title = record.get(fields.title) if fields.title else None
    if title is not None and not isinstance(title, str):
        raise UserError(f"{where}: the title is {type(title).__name__}; expected text.")
    text_name = _name(record, fields.texts, "text", where)
    text = _text(record[text_name], fields, where)
    used = (id_name, text_name, fields.title)
    more = NO_FIELDS
    # BEIR gives most documents an empty metadata object, which must not cost time.
    if fields is DOCUMENT and len(record) > 2 + (fields.title in record) + (record.get(METADATA) == {}):
        more = fields_of(record, used, where)
    return record_id, encodable(title or "", where), text, more


def _name(record: Mapping[str, Any], names: tuple[str, ...], what: str, where: str) -> str:
    for name in names:
        if name in record:
            return name
    raise UserError(f"{where}: no {what}; expected it under {' or '.join(f'`{name}`' for name in names)}.")


def _text(value: object, fields: FieldNames, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the text is {type(value).__name__}; expected text.")
    if fields is QUERY and not value.strip():
        raise UserError(f"{where}: the query is empty; give it a text or leave the line out.")
    return encodable(value, where)
