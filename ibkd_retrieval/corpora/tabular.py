"""Documents and queries in one file or a folder of texts, whatever its fields are called.

- `.jsonl`, `.ndjson`, `.json`: an object a line; a `.json` file may also be one array of objects.
- `.parquet`: a record a row.
- `.csv`: columns split by commas, semicolons, tabs or bars, with quoted cells as spreadsheets write them; `.tsv`:
  columns split by tabs. The first line names the columns where it looks like a header. Without one, columns are `id,
  text`, for documents also `id, title, text`.
- `.txt`: one text a line, its id the line's number. Where the first line is `id<TAB>text`, as in MS MARCO's topics
  files, the file is read as `.tsv`.
- A folder: each `.txt` and `.md` file in it is a document, its id the file's path in the folder.

Fields are found by their usual names (`columns.DOCUMENT`, `columns.QUERY`) or chosen by the user. All files but parquet
may be compressed (`.gz`, `.zst`).

What else a record says of a document is kept in `Document.fields`, for filters: every further key whose value is a
text, a number or a boolean, and such entries of a `metadata` object, as BEIR has it (a key beside it goes before one of
the same name within). Dates and times of parquet become ISO 8601 text. Nulls, numbers that are not finite, lists and
other objects are left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from ibkd_retrieval.corpora.columns import (
    AUTOMATIC,
    DOCUMENT,
    QUERY,
    Fields,
    Reading,
    Row,
    checked_text,
    is_header,
    listed,
    normalised,
)
from ibkd_retrieval.corpora.formats import QUOTED, read_cells, read_records
from ibkd_retrieval.corpora.lines import checked_id, format_suffix, read_lines, read_text
from ibkd_retrieval.corpora.records import NO_FIELDS, Document, Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")

_ID_AND_TEXT = re.compile(r"\S+\t\s*\S")
_NUMBER = re.compile(r"\s*[+-]?[\d.,]+(e[+-]?\d+)?\s*", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_ROWS_TO_JUDGE_BY = 20
"""First rows of a file of columns: a text column that holds nothing but numbers in all of them is no text."""


def is_tabular(path: Path) -> bool:
    """Whether the file's name ends in a suffix that `read_documents` knows."""
    return format_suffix(path) in SUFFIXES


def text_files(folder: Path) -> list[Path]:
    """The `.txt` and `.md` files of a folder and of those in it, sorted by path; hidden ones are left out.

    There are none where most files are others: the notes beside a model or a data set are no corpus.
    """
    visible = [
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    texts = sorted(path for path in visible if path.suffix.lower() in (".txt", ".md"))
    return texts if 2 * len(texts) >= len(visible) else []


def read_documents(path: Path, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Iterator[Document]:
    """Read the documents of one file, or of a folder of texts, in a fixed order, never holding them all.

    Args:
        path: the file or folder.
        fields: the user's choice of fields.
        progress: told which fields were read.

    Raises:
        UserError: the suffix is unknown, the file holds no document, or a line is malformed; it names file and line.
    """
    return documents_by(Reading(DOCUMENT, str(path), fields, progress), path)


def documents_by(reading: Reading, path: Path) -> Iterator[Document]:
    """Read the documents of one file by a reading that has maybe read it before."""
    for doc_id, title, text, fields in _read(path, reading):
        yield Document(doc_id, text, title, fields)


def read_queries(path: Path, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Iterator[Query]:
    """Read the queries of one file, in the file's order.

    Raises:
        UserError: as for `read_documents`, and where a query is empty.
    """
    for query_id, _, text, _ in _read(path, Reading(QUERY, str(path), fields, progress)):
        yield Query(query_id, text)


def _read(path: Path, reading: Reading) -> Iterator[Row]:
    suffix = format_suffix(path)
    if path.is_dir():
        rows = _read_folder(path, reading)
    elif suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; name it {', '.join(SUFFIXES)} (.gz or .zst may follow).")
    elif suffix in (".csv", ".tsv"):
        rows = _read_columns(path, reading)
    elif suffix == ".txt":
        rows = _read_txt(path, reading)
    else:
        rows = (reading.row(record, where) for where, record in read_records(path))
    yield from reading.rows(rows)


def _read_columns(path: Path, reading: Reading) -> Iterator[Row]:
    rows = read_cells(path)
    first = next(rows, None)
    if first is None:
        return
    if len(first[1]) == 1:
        yield from _single_column(path, first, rows, reading)
        return
    if is_header(first[1], reading.fields):
        yield from _named_columns(path, first[1], rows, reading)
        return
    most = 3 if reading.kind is DOCUMENT else 2
    split = "<TAB>" if format_suffix(path) != ".csv" else ","
    columns = len(first[1])
    chosen = reading.fields.chosen
    for number, cells in itertools.chain([first], rows):
        where = f"{path}, line {number}"
        if len(cells) != columns or not (chosen or 2 <= columns <= most):
            expected = f"id{split}text" + (f" or id{split}title{split}text" if most == 3 else "")
            same = " on every line" if len(cells) != columns else ""
            raise UserError(
                f"{where}: expected {expected}{same}, found {len(cells)} column{'s' * (len(cells) > 1)}; a first line"
                " with the names of the columns allows for more."
            )
        if chosen:
            yield reading.row({str(place): cell for place, cell in enumerate(cells, 1)}, where)
            continue
        if number == first[0]:
            told = "column 2 + column 3" if columns == 3 else "column 2"
            reading.say_columns(f"no header; id <- column 1, text <- {told}")
        yield reading.row_of_cells(cells, where)


def _single_column(
    path: Path, first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]], reading: Reading
) -> Iterator[Row]:
    """Texts without ids: their numbers are their ids, as in a file of one text a line."""
    name = normalised(first[1][0])
    headed = name in (*reading.kind.texts, *reading.kind.titles) or first[1][0] in reading.fields.chosen
    reading.say_columns(f"one column; id <- number of the text, text <- {first[1][0] if headed else 'column 1'}")
    for count, (number, cells) in enumerate(rows if headed else itertools.chain([first], rows), 1):
        where = f"{path}, line {number}"
        if len(cells) != 1:
            raise UserError(f"{where}: expected 1 column as on the first line, found {len(cells)}.")
        yield reading.row_of_cells([str(count), cells[0]], where)


def _named_columns(
    path: Path, header: list[str], rows: Iterator[tuple[int, list[str]]], reading: Reading
) -> Iterator[Row]:
    names = [_unquoted(cell).strip() or str(place) for place, cell in enumerate(header, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns are called {twice}; give each its own name.")
    unquote = format_suffix(path) != ".csv"

    def read() -> Iterator[Row]:
        for number, cells in rows:
            where = f"{path}, line {number}"
            if len(cells) != len(names):
                raise UserError(
                    f"{where}: expected {len(names)} columns as in the header ({listed(names)}), found {len(cells)}."
                )
            values = map(_unquoted, cells) if unquote else cells
            doc_id, title, text, more = reading.row(dict(zip(names, values, strict=True)), where, lone=True)
            typed = {name: _typed(str(value)) for name, value in more.items() if value != ""}
            yield doc_id, title, text, typed or NO_FIELDS

    named = read()
    first = list(itertools.islice(named, _ROWS_TO_JUDGE_BY))
    if first and all(_NUMBER.fullmatch(text) and not title for _, title, text, _ in first):
        raise UserError(
            f"{path}: the text column holds only numbers, {first[0][2].strip()} first: choose another of"
            f" {listed(names)} as `text_field`."
        )
    yield from itertools.chain(first, named)


def _typed(cell: str) -> str | int | float:
    """A cell as a number where it is written as numbers are, so that filters compare it as one; 007 stays a text."""
    if not _PLAIN_NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)


def _unquoted(cell: str) -> str:
    """A cell of a TSV file as CSV writers quote it, without the quotes; any other as it is."""
    return cell[1:-1].replace('""', '"') if QUOTED.fullmatch(cell) else cell


def _read_txt(path: Path, reading: Reading) -> Iterator[Row]:
    for number, line in read_lines(path):
        if number == 1 and _ID_AND_TEXT.match(line):
            yield from _read_columns(path, reading)
            return
        if number == 1:
            reading.say_columns("id <- line number, text <- line")
        yield str(number), "", line.strip(), NO_FIELDS


def _read_folder(folder: Path, reading: Reading) -> Iterator[Row]:
    paths = text_files(folder)
    reading.say_columns(f"{len(paths):,} files .txt and .md: id <- path in the folder, text <- the whole file")
    for path in paths:
        name = re.sub(r"\s", lambda space: f"%{ord(space.group()):02X}", path.relative_to(folder).as_posix())
        yield checked_id(name, str(path)), "", checked_text(read_text(path).strip(), reading.kind, str(path)), NO_FIELDS
