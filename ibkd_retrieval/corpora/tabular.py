"""Documents and queries in one file or a folder of texts, with any field names.

- `.jsonl`, `.ndjson`, `.json`: an object per line. A `.json` file may also be one array of objects.
- `.parquet`: a record per row.
- `.csv`: columns split by commas, semicolons, tabs or bars, with quoted cells. `.tsv`: columns split by tabs. The first
  line may be a header. Without a header, the columns are `id, text`, or `id, title, text` for documents.
- `.txt`: one text per line. Its id is the line number. If the first line is `id<TAB>text`, as in the topics of MS
MARCO,
  the file is read as `.tsv`.
- A folder: each `.txt` and `.md` file is a document. Its id is the path in the folder.

Fields are found by their usual names (`columns.DOCUMENT`, `columns.QUERY`) or chosen by the user. All files except
parquet may be compressed (`.gz`, `.zst`).

`Document.fields` holds the other keys of a record for filters: texts, numbers and booleans, also those in a `metadata`
object as in BEIR. A key of the record comes before the same key of `metadata`. Dates and times of parquet become ISO
8601 text. Nulls, non-finite numbers, lists and other objects are left out.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

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
from ibkd_retrieval.corpora.formats import (
    QUOTED,
    Place,
    format_suffix,
    is_json_array,
    read_cells,
    read_lines,
    read_records,
    read_text,
)
from ibkd_retrieval.corpora.records import NO_FIELDS, Document, Query, checked_id
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, About, Progress

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")

_ID_AND_TEXT = re.compile(r"\S+\t\s*\S")
_NUMBER = re.compile(r"\s*[+-]?[\d.,]+(e[+-]?\d+)?\s*", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_ROWS_TO_JUDGE_BY = 20
"""The number of first rows to check. A column with only numbers in them is not the text."""


def is_tabular(path: Path) -> bool:
    """Whether `read_documents` supports the suffix of a file."""
    return format_suffix(path) in SUFFIXES


def text_files(folder: Path) -> list[Path]:
    """Return the `.txt` and `.md` files of a folder and its sub-folders, sorted by path, without hidden ones.

    The list is empty where most files have other suffixes. Notes next to a model or a data set are no corpus.
    """
    visible = [
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    ]
    texts = sorted(path for path in visible if path.suffix.lower() in (".txt", ".md"))
    return texts if 2 * len(texts) >= len(visible) else []


def read_documents(path: Path, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Iterator[Document]:
    """Read the documents of one file, or of a folder of texts, in a fixed order, one at a time.

    Args:
        path: the file or folder.
        fields: the user's choice of fields.
        progress: the display. It shows the fields.

    Raises:
        UserError: the suffix is unknown, the file has no document, or a line is malformed. The message names file and
        line.
    """
    return documents_by(Reading(DOCUMENT, str(path), fields, progress), path)


def documents_by(reading: Reading, path: Path) -> Iterator[Document]:
    """Read the documents of one file with an existing `Reading`."""
    for doc_id, title, text, fields in _read(path, reading):
        yield Document(doc_id, text, title, fields)


_SAMPLE = 4 << 20
"""The bytes of a file that are read to estimate how many documents it holds."""


def expected_documents(path: Path, fields: Fields = AUTOMATIC) -> int | None:
    """Count or estimate the documents of a file or folder, for a display. None if its beginning cannot be read.

    Larger files are estimated by the documents in their first bytes, and the result is an `About`.

    Args:
        path: the file or folder.
        fields: the user's choice of fields.
    """
    if path.is_dir():
        return len(text_files(path))
    suffix = format_suffix(path)
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return int(pq.read_metadata(path).num_rows)
        with open(path, "rb") as raw:
            file = _decompressed(path, raw)
            sample = bytes(file.read(_SAMPLE))
            used = raw.tell() if file is not raw else len(sample)
            is_whole = not file.read(1)
        if suffix == ".json" and sample.lstrip()[:1] == b"[":
            return sum(1 for _ in read_records(path))
        with tempfile.NamedTemporaryFile(suffix=suffix) as part:
            part.write(sample if is_whole else sample[: sample.rfind(b"\n") + 1])
            part.flush()
            found = _countable(Path(part.name), fields)
    except (OSError, EOFError, zlib.error, ValueError, UserError):
        return None  # Whoever reads the documents is told what is wrong.
    return (found if is_whole else About(round(found * path.stat().st_size / used))) or None


def _decompressed(path: Path, raw: IO[bytes]) -> Any:
    """A reader of an open file, whose place tells how much of a compressed file has been read."""
    if path.suffix == ".gz":
        import gzip

        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw), "zstd")
    return raw


def _countable(path: Path, fields: Fields) -> int:
    """The documents of a file that may end within one."""
    found = 0
    with suppress(UserError):
        for _ in documents_by(Reading(DOCUMENT, str(path), fields), path):
            found += 1
    return found


def has_lines(path: Path) -> bool:
    """Whether each document of a plain file is a line of its own, so that `documents_within` can read any part of it.

    In other files a document depends on those before it, or on all that is compressed before it.
    """
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json", ".tsv") or not path.is_file():
        return False
    try:
        if path.suffix.lower() == ".tsv":
            first = next(read_cells(path), None)
            return first is not None and len(first[1]) > 1
        return not is_json_array(path)
    except UserError:
        return False  # Whoever reads the documents is told what is wrong.


def documents_within(reading: Reading, path: Path, place: Place) -> Iterator[Document]:
    """Read the documents of a part of a file that `has_lines`. They are those of `documents_by` there.

    Args:
        reading: the kind and the fields.
        path: the file.
        place: the part. It says where the document is that was read last.

    Raises:
        UserError: a line is malformed. Its number counts from `place.number`.
    """
    rows: Iterator[Row]
    if path.suffix.lower() != ".tsv":
        rows = (reading.row(record, where) for where, record in read_records(path, place))
    else:
        rows = _columns_within(path, place, reading)
    for doc_id, title, text, fields in rows:
        yield Document(doc_id, text, title, fields)


def _columns_within(path: Path, place: Place, reading: Reading) -> Iterator[Row]:
    head = Place()
    first = next(line for _, line in read_lines(path, head)).split("\t")
    names = _names_of(first) if is_header(first, reading.fields) else None
    for number, line in read_lines(path, place):
        cells = line.split("\t")
        if names is None:
            yield _bare_row(path, len(first), number, cells, reading)
        elif place.line != head.line:
            yield _named_row(path, names, number, cells, reading)


def read_queries(path: Path, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> Iterator[Query]:
    """Read the queries of one file in its order.

    Raises:
        UserError: as for `read_documents`, or a query is empty.
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
    columns = len(first[1])
    for number, cells in itertools.chain([first], rows):
        if number == first[0] and not reading.fields.chosen and columns <= _most_columns(reading):
            told = "column 2 + column 3" if columns == 3 else "column 2"
            reading.say_columns(f"no header; id <- column 1, text <- {told}")
        yield _bare_row(path, columns, number, cells, reading)


def _most_columns(reading: Reading) -> int:
    return 3 if reading.kind is DOCUMENT else 2


def _bare_row(path: Path, columns: int, number: int, cells: list[str], reading: Reading) -> Row:
    """The row of a line in a file without a header, whose first line has that many columns."""
    where = f"{path}, line {number}"
    chosen = reading.fields.chosen
    most = _most_columns(reading)
    if len(cells) != columns or not (chosen or 2 <= columns <= most):
        split = "<TAB>" if format_suffix(path) != ".csv" else ","
        expected = f"id{split}text" + (f" or id{split}title{split}text" if most == 3 else "")
        same = " on every line" if len(cells) != columns else ""
        raise UserError(
            f"{where}: expected {expected}{same}, found {len(cells)} column{'s' * (len(cells) > 1)}; a first line"
            " with the names of the columns allows for more."
        )
    if chosen:
        return reading.row({str(place): cell for place, cell in enumerate(cells, 1)}, where)
    return reading.row_of_cells(cells, where)


def _single_column(
    path: Path, first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]], reading: Reading
) -> Iterator[Row]:
    """Read texts without ids. Their numbers are the ids, as in a file with one text per line."""
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
    names = _names_of(header)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns are called {twice}; give each its own name.")
    named = (_named_row(path, names, number, cells, reading) for number, cells in rows)
    first = list(itertools.islice(named, _ROWS_TO_JUDGE_BY))
    if first and all(_NUMBER.fullmatch(text) and not title for _, title, text, _ in first):
        raise UserError(
            f"{path}: the text column holds only numbers, {first[0][2].strip()} first: choose another of"
            f" {listed(names)} as `text_field`."
        )
    yield from itertools.chain(first, named)


def _names_of(header: list[str]) -> list[str]:
    return [_unquoted(cell).strip() or str(place) for place, cell in enumerate(header, 1)]


def _named_row(path: Path, names: list[str], number: int, cells: list[str], reading: Reading) -> Row:
    where = f"{path}, line {number}"
    if len(cells) != len(names):
        raise UserError(
            f"{where}: expected {len(names)} columns as in the header ({listed(names)}), found {len(cells)}."
        )
    values = map(_unquoted, cells) if format_suffix(path) != ".csv" else cells
    doc_id, title, text, more = reading.row(dict(zip(names, values, strict=True)), where, lone=True)
    typed = {name: _typed(str(value)) for name, value in more.items() if value != ""}
    return doc_id, title, text, typed or NO_FIELDS


def _typed(cell: str) -> str | int | float:
    """Convert a cell with a plain number to a number, so that filters compare it as one. 007 stays text."""
    if not _PLAIN_NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)


def _unquoted(cell: str) -> str:
    """Remove CSV quotes from a cell of a TSV file."""
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
