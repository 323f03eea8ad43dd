"""Parse run files into columns: large regular blocks at once, other lines one by one."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import as_float32
from ibkd_retrieval.search.runs.doc_ids import Ids, as_ids

# (query, document, value) columns by number of columns: TREC `qid Q0 docid rank score tag`, MS MARCO `qid docid rank`.
_COLUMNS = {6: (0, 2, 4), 3: (0, 1, 2)}
_END_OF_LINE = b" \0 "
# For smaller blocks, loading the fast parser takes longer than it saves.
_LARGE = 1 << 21


class Rows(NamedTuple):
    """The lines of a run by column.

    Attributes:
        query_ids: the query ids, in order of their first line.
        query_of: the place of each line's query in `query_ids`, int32 [n].
        doc_ids: document ids, StringDType [n].
        scores: scores, float32 [n].
    """

    query_ids: Sequence[str]
    query_of: NDArray[np.int32]
    doc_ids: Ids
    scores: NDArray[np.float32]


def parse(path: Path, block: bytes, read: int, columns: int) -> Rows:
    """Parse whole lines.

    Args:
        path: the file, for error messages.
        block: the lines.
        read: number of lines before the block.
        columns: 6 (TREC) or 3 (MS MARCO).

    Raises:
        UserError: a line has a wrong number of columns, text that is not UTF-8, a score that is not a finite number, or
            a rank below 1.
    """
    return _parse_at_once(block, columns) or _parse_by_line(path, block, read, columns)


def shape(path: Path, block: bytes, read: int, tag: str) -> tuple[int, str]:
    """The number of columns of the first line that is not blank, and its tag. 0 columns if all lines are blank.

    Raises:
        UserError: the line has neither 6 nor 3 columns.
    """
    start = 0
    while start < len(block):
        end = block.find(b"\n", start)
        end = len(block) if end < 0 else end
        row = block[start:end].split()
        read, start = read + 1, end + 1
        if row and len(row) not in _COLUMNS:
            raise UserError(
                f"{path}, line {read}: {len(row)} columns where 6 (TREC) or 3 (MS MARCO) are needed: "
                "use `qid Q0 docid rank score tag` or `qid docid rank`."
            )
        if row:
            return len(row), row[5].decode("utf-8", "replace") if len(row) == 6 else tag
    return 0, tag


def _parse_at_once(block: bytes, columns: int) -> Rows | None:
    """Parse a large block whose columns are separated by one space, or by one tab.

    Returns None if the block is small, has other white space, or is wrong. `_parse_by_line` then finds the error.
    """
    if len(block) < _LARGE:
        return None
    gap = b" " if b" " in block[: block.find(b"\n")] else b"\t"
    if not _is_tidy(block, gap):
        return None
    import pyarrow as pa
    from pyarrow import csv

    query, doc, value = (f"f{column}" for column in _COLUMNS[columns])
    is_rank = columns == 3
    kinds = {query: pa.string(), doc: pa.string(), value: pa.int64() if is_rank else pa.float64()}
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(autogenerate_column_names=True),
            csv.ParseOptions(delimiter=gap.decode(), quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(include_columns=list(kinds), column_types=kinds, null_values=[]),
            # Arrow's own pool keeps freed memory, which doubles the memory of a large run.
            memory_pool=pa.system_memory_pool(),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    values = table[value].to_numpy().astype(np.float64)
    scores = as_float32(-values if is_rank else values)
    if table.num_rows != _line_count(block) or not np.isfinite(scores).all() or (is_rank and bool((values < 1).any())):
        return None
    queries = table[query].combine_chunks().dictionary_encode()
    return Rows(queries.dictionary.to_pylist(), queries.indices.to_numpy(), as_ids(table[doc].to_numpy()), scores)


def _is_tidy(block: bytes, gap: bytes) -> bool:
    """Whether the only white space of the block is single gaps and line ends, and no line is blank."""
    codes = np.frombuffer(block, dtype=np.uint8)
    white = codes <= ord(" ")
    marks = np.count_nonzero(codes == ord(gap)) + np.count_nonzero(codes == ord("\n"))
    together = bool((white[1:] & white[:-1]).any())
    return np.count_nonzero(white) == marks and not white[0] and not together and not block.startswith(codecs.BOM_UTF8)


def _parse_by_line(path: Path, block: bytes, read: int, columns: int) -> Rows:
    at, cells = _cells(path, block, read, columns)
    query, doc, value = (cells[column] for column in _COLUMNS[columns])
    codes: dict[str, int] = {}
    query_of = np.array([codes.setdefault(name, len(codes)) for name in _decoded(path, at, query)], dtype=np.int32)
    doc_ids = as_ids(_decoded(path, at, doc))
    return Rows(tuple(codes), query_of, doc_ids, _scores(path, at, value, is_rank=columns == 3))


def lines_of(blocks: Iterable[bytes], query_id: str, doc_id: str) -> list[int]:
    """The numbers of the lines that rank a document for a query."""
    wanted = query_id.encode("utf-8"), doc_id.encode("utf-8")
    lines = (line.split() for block in blocks for line in block.split(b"\n")[: _line_count(block)])
    return [
        number
        for number, row in enumerate(lines, 1)
        if row and (row[0].removeprefix(codecs.BOM_UTF8), row[_COLUMNS[len(row)][1]]) == wanted
    ]


def _line_count(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _cells(path: Path, block: bytes, read: int, columns: int) -> tuple[NDArray[np.int64], list[list[bytes]]]:
    """Split lines into columns, and number them."""
    # One split of the whole block is five times as fast as one per line. The mark at each line's end shows that every
    # line has the right number of columns.
    tokens = (block.removesuffix(b"\n") + b"\n").replace(b"\n", _END_OF_LINE).split()
    width, lines = columns + 1, _line_count(block)
    if len(tokens) == width * lines and tokens[columns::width].count(_END_OF_LINE.strip()) == lines:
        return np.arange(read + 1, read + 1 + lines), [tokens[column::width] for column in range(columns)]
    rows = [line.split() for line in block.split(b"\n")]
    for number, row in enumerate(rows, read + 1):
        if row and len(row) != columns:
            raise UserError(
                f"{path}, line {number}: {len(row)} columns where {columns} are needed as on the first line: "
                "correct the line."
            )
    at = np.array([number for number, row in enumerate(rows, read + 1) if row], dtype=np.int64)
    return at, [[row[column] for row in rows if row] for column in range(columns)]


def _scores(path: Path, at: NDArray[np.int64], cells: Sequence[bytes], is_rank: bool) -> NDArray[np.float32]:
    try:
        if b"_" in b" ".join(cells):
            raise ValueError
        values = np.fromiter(map(int if is_rank else float, cells), dtype=np.float64, count=len(cells))
    except (ValueError, OverflowError):
        values = np.array([_number(cell, is_rank) for cell in cells])
    single = as_float32(-values if is_rank else values)
    wrong = ~np.isfinite(single) | ((values < 1) if is_rank else False)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        column, needed = ("third", "rank, a whole number from 1") if is_rank else ("fifth", "score, a finite number")
        raise UserError(
            f"{path}, line {at[place]}: the {column} column is {_shown(cells[place])}, where a {needed}, is needed: "
            "correct the line."
        )
    return single


def _number(cell: bytes, is_rank: bool) -> float:
    try:
        # Python reads 1_0 as ten, and trec_eval reads it as one.
        return float("nan") if b"_" in cell else int(cell) if is_rank else float(cell)
    except (ValueError, OverflowError):
        return float("nan")


def _decoded(path: Path, at: NDArray[np.int64], cells: Sequence[bytes]) -> list[str]:
    if not cells:
        return []
    try:
        return b"\n".join(cells).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        place = b"\n".join(cells)[: error.start].count(b"\n")
        raise UserError(f"{path}, line {at[place]}: the text is not UTF-8: convert the file to UTF-8.") from error


def _shown(cell: bytes) -> str:
    return repr(cell.decode("utf-8", "replace"))
