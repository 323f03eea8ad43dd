"""Runs on disk: TREC and MS MARCO files, plain or compressed."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, open_bytes, require_writable
from ibkd_retrieval.search.ranking import (
    Hit,
    Ids,
    Run,
    as_float32,
    first_repeated,
    in_rank_order,
    strictly_decreasing,
)

__all__ = ["Hit", "Run", "RunFormat", "read_run", "write_run"]

RunFormat = Literal["trec", "msmarco"]

# (query, document, value) columns by number of columns: TREC `qid Q0 docid rank score tag`, MS MARCO `qid docid rank`.
_COLUMNS = {6: (0, 2, 4), 3: (0, 1, 2)}
_READ_BYTES = 1 << 22
_END_OF_LINE = b" \0 "


def write_run(run: Run, path: Path | str, format: RunFormat = "trec") -> None:
    """Write a run, whole or not at all; a name that ends in `.gz` is compressed.

    TREC scores are strictly decreasing within a query (see `strictly_decreasing`) with the nine digits that
    bring back the same float32; MS MARCO files hold ranks only. Queries without documents leave no line.

    Raises:
        UserError: an unknown format, a `.zst` name, or an id or tag that is empty or holds white space.
    """
    path = Path(path)
    _check_target(path, format)
    _check_one_word(run.query_ids, "query id")
    _check_one_word([run.tag], "tag")
    with atomic_write(path) as file:
        if path.suffix == ".gz":
            # No name and no time in the header: the same run gives the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=5, mtime=0) as compressed:
                _write_lines(run, compressed.write, format)
        else:
            _write_lines(run, file.write, format)


def require_run_target(path: Path, format: str) -> None:
    """Find out before a search whether its run can be written.

    Raises:
        UserError: an unknown format, a `.zst` name, or a place that cannot be written.
    """
    _check_target(path, format)
    require_writable(path)


def _check_target(path: Path, format: str) -> None:
    if format not in get_args(RunFormat):
        raise UserError(f"Run format {format!r} is not known: use {' or '.join(map(repr, get_args(RunFormat)))}.")
    if path.suffix == ".zst":
        raise UserError(f"{path}: runs are written plain or as .gz, not as .zst: choose another name.")


def _write_lines(run: Run, write: Callable[[bytes], object], kind: RunFormat) -> None:
    for query_id, doc_ids, scores in run:
        ids: list[str] = doc_ids.tolist()
        _check_one_word(ids, f"document id of query {query_id}")
        if kind == "msmarco":
            lines = [f"{query_id}\t{doc_id}\t{rank}\n" for rank, doc_id in enumerate(ids, 1)]
        else:
            head, tail = f"{query_id} Q0 ", f" {run.tag}\n"
            values = strictly_decreasing(scores).tolist()
            lines = [
                f"{head}{doc_id} {rank} {value:.9g}{tail}"
                for rank, (doc_id, value) in enumerate(zip(ids, values, strict=True), 1)
            ]
        write("".join(lines).encode("utf-8"))


def read_run(path: Path | str) -> Run:
    """Read a run in TREC (six columns) or MS MARCO (three columns) format, plain, `.gz` or `.zst`.

    As trec_eval does, the order comes from the scores, not from a TREC file's rank column. An MS MARCO rank
    becomes the score -rank. A query's lines need not stand together; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, ends early or is empty; or, naming the line, the number of columns is
            wrong, a score is not a finite number, a rank is below 1, or a document appears twice for a query.
    """
    path = Path(path)
    codes: dict[bytes, int] = {}
    doc_ids: list[str] = []
    query_parts: list[NDArray[np.int64]] = []
    score_parts: list[NDArray[np.float32]] = []
    line_parts: list[NDArray[np.int64]] = []
    columns, read, tag = 0, 0, path.name.split(".")[0]
    for lines in _line_blocks(path):
        if not read:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        if not columns:
            columns, tag = _shape(path, lines, read, tag)
        at, cells = _cells(path, lines, read, columns) if columns else (np.empty(0, dtype=np.int64), [])
        read += len(lines)
        if not len(at):
            continue
        query, doc, value = (cells[column] for column in _COLUMNS[columns])
        score_parts.append(_scores(path, at, value, is_rank=columns == 3))
        doc_ids.extend(_decoded(path, at, doc))
        _decoded(path, at, query)
        query_parts.append(np.array([codes.setdefault(name, len(codes)) for name in query], dtype=np.int64))
        line_parts.append(at)
    if not doc_ids:
        raise UserError(f"{path} is empty: a run needs at least one line `qid Q0 docid rank score tag`.")
    return _grouped(
        path,
        tuple(name.decode("utf-8") for name in codes),
        np.concatenate(query_parts),
        np.array(doc_ids, dtype=object),
        np.concatenate(score_parts),
        np.concatenate(line_parts),
        tag,
    )


def _shape(path: Path, lines: list[bytes], read: int, tag: str) -> tuple[int, str]:
    """Number of columns of the first line that is not blank (0: none here), and the tag it carries."""
    for number, line in enumerate(lines, read + 1):
        row = line.split()
        if row and len(row) not in _COLUMNS:
            raise UserError(
                f"{path}, line {number}: {len(row)} columns where 6 (TREC) or 3 (MS MARCO) are needed: "
                "use `qid Q0 docid rank score tag` or `qid docid rank`."
            )
        if row:
            return len(row), row[5].decode("utf-8", "replace") if len(row) == 6 else tag
    return 0, tag


def _cells(path: Path, lines: list[bytes], read: int, columns: int) -> tuple[NDArray[np.int64], list[list[bytes]]]:
    """Split lines into columns; also the line number of each row."""
    # One split of the whole block is five times as fast as one per line. The mark at each line's end proves that
    # no line has a column too few and another one too many.
    tokens = (b"".join(lines).removesuffix(b"\n") + b"\n").replace(b"\n", _END_OF_LINE).split()
    width = columns + 1
    if len(tokens) == width * len(lines) and tokens[columns::width].count(_END_OF_LINE.strip()) == len(lines):
        return np.arange(read + 1, read + 1 + len(lines)), [tokens[column::width] for column in range(columns)]
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, read + 1):
        if row and len(row) != columns:
            raise UserError(
                f"{path}, line {number}: {len(row)} columns where {columns} are needed as on the first line: "
                "correct the line."
            )
    at = np.array([number for number, row in enumerate(rows, read + 1) if row], dtype=np.int64)
    return at, [[row[column] for row in rows if row] for column in range(columns)]


def _grouped(
    path: Path,
    query_ids: tuple[str, ...],
    query_of: NDArray[np.int64],
    doc_ids: Ids,
    scores: NDArray[np.float32],
    numbers: NDArray[np.int64],
    tag: str,
) -> Run:
    order = np.argsort(query_of, kind="stable")
    offsets = np.append(0, np.cumsum(np.bincount(query_of, minlength=len(query_ids)))).astype(np.int64)
    doc_ids, scores = doc_ids[order], scores[order]
    ranked = np.empty(len(scores), dtype=np.float64)
    for query_id, start, stop in zip(query_ids, offsets[:-1], offsets[1:], strict=True):
        ids = doc_ids[start:stop]
        if len(set(ids.tolist())) != stop - start:
            twice = first_repeated(ids.tolist())
            first, second = (numbers[order[start + place]] for place in np.flatnonzero(ids == twice)[:2])
            raise UserError(
                f"{path}, line {second}: document {twice} appears twice for query {query_id} (first on line {first}): "
                "keep one of them."
            )
        doc_ids[start:stop], ranked[start:stop] = in_rank_order(ids, scores[start:stop])
    return Run(query_ids, offsets, doc_ids, ranked, tag)


def _line_blocks(path: Path) -> Iterator[list[bytes]]:
    try:
        with open_bytes(path) as file:
            while lines := file.readlines(_READ_BYTES):
                yield lines
    except FileNotFoundError as error:
        raise UserError(f"There is no run at {path}: check the name.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read to its end ({error}): copy or make the run again.") from error


def _scores(path: Path, at: NDArray[np.int64], cells: Sequence[bytes], is_rank: bool) -> NDArray[np.float32]:
    try:
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
        return int(cell) if is_rank else float(cell)
    except (ValueError, OverflowError):
        return float("nan")


def _decoded(path: Path, at: NDArray[np.int64], cells: Sequence[bytes]) -> list[str]:
    try:
        return b"\n".join(cells).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        place = b"\n".join(cells)[: error.start].count(b"\n")
        raise UserError(f"{path}, line {at[place]}: the text is not UTF-8: convert the file to UTF-8.") from error


def _check_one_word(words: Sequence[str], what: str) -> None:
    text = "\n".join(words).encode("utf-8")
    if words and text.split() != text.split(b"\n"):
        bad = next(word for word in words if len(word.encode("utf-8").split()) != 1)
        raise UserError(f"The {what} {bad!r} is empty or holds white space, which a run file cannot hold: rename it.")


def _shown(cell: bytes) -> str:
    return repr(cell.decode("utf-8", "replace"))
