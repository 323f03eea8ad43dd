"""Readers of file formats: lines of text, JSON lines, JSON arrays, parquet, and `.csv` and `.tsv` files."""

from __future__ import annotations

import csv
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.records import METADATA
from ibkd_retrieval.errors import UserError, first_line
from ibkd_retrieval.files import open_bytes
from ibkd_retrieval.json_io import parse_fast
from ibkd_retrieval.stores import StoreFile, seekable

LONGEST_LINE = 32 << 20
"""The most bytes of a line. It bounds the memory that a small compressed file can use."""
_COMPRESSIONS = frozenset({".gz", ".zst"})


def format_suffix(path: Path) -> str:
    """Return the suffix of a file's format in lower case: `.tsv` for `collection.tsv.gz`."""
    stem = Path(path.stem) if path.suffix in _COMPRESSIONS else path
    return stem.suffix.lower()


@dataclass
class Place:
    """A part of a plain file, and where its reader is.

    Attributes:
        following: offset of the next line. The part begins with a whole line.
        number: number of lines before it.
        stop: the part has the lines that begin before this offset. None is to the end of the file.
        line: offset of the line that was read last.
    """

    following: int = 0
    number: int = 0
    stop: int | None = None
    line: int = 0


def read_lines(path: Path, place: Place | None = None) -> Iterator[tuple[int, str]]:
    """Read the lines of a UTF-8 file, plain or compressed (`.gz`, `.zst`), with numbers from 1 and without line ends.

    Lines that hold nothing but white space are skipped; their numbers are not given to others.

    Args:
        path: the file.
        place: the part of it to read, which is kept up to date. None is the whole file.

    Raises:
        UserError: as for `whole_lines`.
    """
    for number, line in whole_lines(path, place):
        if not line.isspace():
            yield number, line.rstrip("\r\n")


def whole_lines(path: Path, place: Place | None = None) -> Iterator[tuple[int, str]]:
    """Read every line of a UTF-8 file, plain or compressed, with its number from 1 and its line end.

    Args:
        path: the file.
        place: the part of it to read, which is kept up to date. None is the whole file.

    Raises:
        UserError: the file cannot be opened, is not UTF-8, has a line longer than `LONGEST_LINE`, or is compressed and
            damaged or cut off.
    """
    try:
        file = open_bytes(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check the path and its permissions."
        ) from None
    place = place or Place()
    number = place.number
    with file:
        if place.following:
            file.seek(place.following)
        while place.stop is None or place.following < place.stop:
            try:
                line = file.readline(LONGEST_LINE + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(
                    f"{path} cannot be read past line {number} ({error}): the file is damaged or ends early, so"
                    " fetch it again."
                ) from None
            if not line:
                return
            number += 1
            place.number, place.line, place.following = number, place.following, place.following + len(line)
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{path}, line {number}: longer than {LONGEST_LINE >> 20} MiB; split it into documents of a line"
                    " each."
                )
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: byte {error.start + 1} of the line is not UTF-8; convert the file."
                ) from None
            if text:
                yield number, text


def read_text(path: Path) -> str:
    """Read a whole UTF-8 file that is one text.

    Raises:
        UserError: it cannot be read, is not UTF-8 or is longer than `LONGEST_LINE`.
    """
    try:
        with open_bytes(path) as file:
            content = file.read(LONGEST_LINE + 1)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check the path and its permissions."
        ) from None
    if len(content) > LONGEST_LINE:
        raise UserError(f"{path}: longer than {LONGEST_LINE >> 20} MiB; split it into several files.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; convert the file.") from None


QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""A quoted cell of CSV."""
_BATCH_ROWS = 4096


def read_records(path: Path, place: Place | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the records of a file of JSON lines or of a parquet file, each with its location for errors.

    Args:
        path: the file.
        place: the part of a file of JSON lines to read. None is the whole file.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    if format_suffix(path) == ".parquet":
        return _parquet_records(path)
    return _json_array(path) if is_json_array(path) else _json_records(path, place)


def is_json_array(path: Path) -> bool:
    """Whether a file holds one JSON array, and not an object on each line."""
    return format_suffix(path) == ".json" and next((line.lstrip()[:1] for _, line in read_lines(path)), "") == "["


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the cells of a `.csv` or `.tsv` file, each line of cells with its number.

    Raises:
        UserError: the file cannot be read, or a quoted cell is malformed.
    """
    if format_suffix(path) == ".csv":
        yield from _csv_cells(path)
        return
    for number, line in read_lines(path):
        yield number, line.split("\t")


def _json_records(path: Path, place: Place | None) -> Iterator[tuple[str, dict[str, Any]]]:
    name = str(path)
    for number, line in read_lines(path, place):
        where = f"{name}, line {number}"
        try:
            record = parse_fast(line)
        except RecursionError:
            raise UserError(f"{where}: not JSON that can be read (nested too deeply); flatten the object.") from None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error}); expected one JSON object on each line.") from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object with an id and a text, found {type(record).__name__}.")
        yield where, record


def _json_array(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the records of a file with one array. The whole file is in memory."""
    try:
        records = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({first_line(error)}); expected an array of objects.") from None
    for number, record in enumerate(records, 1):
        where = f"{path}, entry {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object with an id and a text, found {type(record).__name__}.")
        yield where, record


def _csv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = whole_lines(path)
    first = next(((number, line) for number, line in lines if not line.isspace()), None)
    if first is None:
        return
    bare = QUOTED.sub("", first[1])
    delimiter = max(",;\t|", key=bare.count)
    csv.field_size_limit(LONGEST_LINE)
    # strict: an unclosed quote must not take the rest of the file.
    reader = csv.reader((line for _, line in itertools.chain([first], lines)), delimiter=delimiter, strict=True)
    before = first[0] - 1
    read = 0
    while True:
        number = before + read + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {number}: a quoted cell is malformed ({error}); close its quotes and double those in it."
            ) from None
        if cells is None:
            return
        read = reader.line_num
        if cells and not (len(cells) == 1 and not cells[0].strip()):
            yield number, cells


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(seekable(path), pre_buffer=isinstance(path, StoreFile)) as file:
            wanted = [column.name for column in file.schema_arrow if _holds_fields(column)]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                try:
                    records = _with_microseconds(batch).to_pylist()
                except (ValueError, OverflowError) as error:
                    raise UserError(
                        f"{path}, rows {number + 1} to {number + len(batch)}: a date or time cannot be read ({error});"
                        " keep dates within the years 1 to 9999, or write them as text."
                    ) from None
                for record in records:
                    number += 1
                    yield f"{path}, row {number}", record
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as parquet ({reason}): fetch or write it again.") from None


def _holds_fields(column: Any) -> bool:
    """Whether a parquet column may hold field values. Others, such as embeddings, are not read."""
    import pyarrow as pa

    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    kind = kind.value_type if listed else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if listed and (pa.types.is_floating(kind) or pa.types.is_struct(kind) or pa.types.is_int8(kind)):
        return False
    if pa.types.is_struct(kind):
        return bool(column.name == METADATA)
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(texts or numbers or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _with_microseconds(batch: Any) -> Any:
    """Return the batch with times in microseconds, the finest unit of Python."""
    import pyarrow as pa

    for place, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            coarser = batch.column(place).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(place, column.name, coarser)
    return batch
