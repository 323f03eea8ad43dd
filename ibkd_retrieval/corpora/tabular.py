"""Documents and queries in one file: JSON lines, tab-separated columns, parquet, or one text a line.

- `.jsonl`, `.ndjson`, `.json`: an object a line. A document has an id (`_id`, `id`, `docid` or `doc_id`), a text
  (`text`, `contents` or `body`) and maybe a `title`; a query has an id (`_id`, `id`, `qid` or `query_id`) and a text
  (`text` or `query`).
- `.parquet`: the same names, as columns.
- `.tsv`: `id<TAB>text`, for documents also `id<TAB>title<TAB>text`; the first line decides.
- `.txt`: one text a line, its id the line's number. Where the first line is `id<TAB>text`, as in MS MARCO's topics
  files, the file is read as `.tsv`.

All but parquet may be compressed (`.gz`, `.zst`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.lines import checked_id, format_suffix, read_lines
from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".tsv", ".txt", ".parquet")

_ID_AND_TEXT = re.compile(r"\S+\t\s*\S")
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class _Fields:
    """The names under which one kind of record keeps its fields, the preferred name first."""

    kind: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    title: str | None


_DOCUMENT = _Fields("document", ("_id", "id", "docid", "doc_id"), ("text", "contents", "body"), "title")
_QUERY = _Fields("query", ("_id", "id", "qid", "query_id"), ("text", "query"), None)
_Row = tuple[str, str, str]  # id, title, text


def is_tabular(path: Path) -> bool:
    """Whether the file's name ends in a suffix that `read_documents` knows."""
    return format_suffix(path) in SUFFIXES


def read_documents(path: Path) -> Iterator[Document]:
    """Read the documents of one file, in the file's order, never holding them all.

    Raises:
        UserError: the suffix is unknown, the file holds no document, or a line is malformed; it names file and line.
    """
    for doc_id, title, text in _read(path, _DOCUMENT):
        yield Document(doc_id, text, title)


def read_queries(path: Path) -> Iterator[Query]:
    """Read the queries of one file, in the file's order.

    Raises:
        UserError: as for `read_documents`, and where a query is empty.
    """
    for query_id, _, text in _read(path, _QUERY):
        yield Query(query_id, text)


def _read(path: Path, fields: _Fields) -> Iterator[_Row]:
    readers: dict[str, Callable[[Path, _Fields], Iterator[_Row]]] = {
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
        plural = "queries" if fields is _QUERY else "documents"
        raise UserError(f"no {plural} in {path}: the file is empty.")


def _read_jsonl(path: Path, fields: _Fields) -> Iterator[_Row]:
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); expected one JSON object on each line.") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object with an id and a text, found {type(record).__name__}.")
        yield _row(record, fields, where)


def _read_tsv(path: Path, fields: _Fields) -> Iterator[_Row]:
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
        yield checked_id(cells[0], where), cells[1] if columns == 3 else "", _text(cells[-1], fields, where)


def _read_txt(path: Path, fields: _Fields) -> Iterator[_Row]:
    lines = read_lines(path)
    for number, line in lines:
        if number == 1 and _ID_AND_TEXT.match(line):
            yield from _read_tsv(path, fields)
            return
        yield str(number), "", line.strip()


def _read_parquet(path: Path, fields: _Fields) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = {*fields.ids, *fields.texts, fields.title}
            columns = [name for name in file.schema_arrow.names if name in known]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield _row(record, fields, f"{path}, row {number}")
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as parquet ({reason}): fetch or write it again.") from None


def _row(record: Mapping[str, Any], fields: _Fields, where: str) -> _Row:
    record_id = checked_id(_field(record, fields.ids, "id", where), where)
    title = record.get(fields.title) if fields.title else None
    if title is not None and not isinstance(title, str):
        raise UserError(f"{where}: the title is {type(title).__name__}; expected text.")
    return record_id, _encodable(title or "", where), _text(_field(record, fields.texts, "text", where), fields, where)


def _field(record: Mapping[str, Any], names: tuple[str, ...], what: str, where: str) -> object:
    for name in names:
        if name in record:
            return record[name]
    raise UserError(f"{where}: no {what}; expected it under {' or '.join(f'`{name}`' for name in names)}.")


def _text(value: object, fields: _Fields, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the text is {type(value).__name__}; expected text.")
    if fields is _QUERY and not value.strip():
        raise UserError(f"{where}: the query is empty; give it a text or leave the line out.")
    return _encodable(value, where)


def _encodable(text: str, where: str) -> str:
    # JSON can spell half of a surrogate pair, which no file could be written with later on.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair (\\ud800 to \\udfff); remove it.") from None
    return text
