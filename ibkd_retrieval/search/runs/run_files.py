"""Runs on disk: TREC and MS MARCO files, plain or compressed."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from ibkd_retrieval.corpora.formats import LONGEST_LINE
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, open_bytes, require_writable
from ibkd_retrieval.search.runs import Hit, Run, RunFormat, first_repeated, in_rank_order, strictly_decreasing
from ibkd_retrieval.search.runs.doc_ids import Ids, any_repeated
from ibkd_retrieval.search.runs.run_lines import lines_of, parse, shape

__all__ = ["Hit", "Run", "RunFormat", "read_run", "write_run"]

_READ_BYTES = 1 << 22


def write_run(run: Run, path: Path | str, format: RunFormat = "trec") -> None:
    """Write a run file, whole or not at all. It is compressed if the name ends in `.gz`.

    TREC scores are strictly decreasing within a query (see `strictly_decreasing`), with the nine digits that give the
    same float32 when read. MS MARCO files hold ranks only. Queries without documents have no line.

    Raises:
        UserError: the format is unknown, the name ends in `.zst`, or an id or the tag is empty or contains white space.

    Example:
        >>> import tempfile
        >>> run = Run.from_lists(["q1"], [["d8", "d3"]], [[0.4, 0.9]])
        >>> path = Path(tempfile.mkdtemp()) / "run.msmarco"
        >>> write_run(run, path, "msmarco")
        >>> path.read_text().split()
        ['q1', 'd3', '1', 'q1', 'd8', '2']
    """
    path = Path(path)
    _check_target(path, format)
    _check_one_word(run.query_ids, "query id")
    _check_one_word([run.tag], "tag")
    with atomic_write(path) as file:
        if path.suffix == ".gz":
            # Without name and time in the header, the same run gives the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=5, mtime=0) as compressed:
                _write_lines(run, compressed.write, format)
        else:
            _write_lines(run, file.write, format)


def require_run_target(path: Path, format: str) -> RunFormat:
    """Check before a search that its run can be written, and return the format.

    Raises:
        UserError: the format is unknown, the name ends in `.zst`, or the place cannot be written.
    """
    known = _check_target(path, format)
    require_writable(path)
    return known


def _check_target(path: Path, format: str) -> RunFormat:
    if format not in get_args(RunFormat):
        raise UserError(f"Run format {format!r} is not known: use {' or '.join(map(repr, get_args(RunFormat)))}.")
    if path.suffix == ".zst":
        raise UserError(f"{path}: runs are written plain or as .gz, not as .zst: choose another name.")
    return "msmarco" if format == "msmarco" else "trec"


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
    r"""Read a run in TREC (six columns) or MS MARCO (three columns) format, plain, `.gz` or `.zst`.

    The order is that of the scores, as in trec_eval. The rank column of a TREC file is not read. An MS MARCO rank
    becomes the score -rank. A query's lines need not be together. Blank lines are skipped.

    Raises:
        UserError: the file cannot be read, ends early or is empty. Or a line has a wrong number of columns, a score
            that is not a finite number, a rank below 1, or a document that appears twice for its query.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "run.trec"
        >>> _ = file.write_text("q1 Q0 d3 1 0.9 mine\nq1 Q0 d8 2 0.4 mine\n")
        >>> read_run(file)["q1"]
        {'d3': 0.8999999761581421, 'd8': 0.4000000059604645}
    """
    path = Path(path)
    codes: dict[str, int] = {}
    query_of, doc_ids, scores = _Column(np.int32), _Column(StringDType()), _Column(np.float32)
    columns, read, tag = 0, 0, path.name.split(".")[0]
    for block in _blocks(path):
        if not read:
            block = block.removeprefix(codecs.BOM_UTF8)
        if not columns:
            columns, tag = shape(path, block, read, tag)
        rows = parse(path, block, read, columns) if columns else None
        read += block.count(b"\n")
        if rows is not None and len(rows.scores):
            numbers = np.array([codes.setdefault(name, len(codes)) for name in rows.query_ids], dtype=np.int32)
            # Lines of a run have about the same length. If they do not, or are compressed, the columns grow.
            expected = path.stat().st_size * len(rows.scores) // len(block) * 21 // 20
            query_of.extend(numbers[rows.query_of], expected)
            doc_ids.extend(rows.doc_ids, expected)
            scores.extend(rows.scores, expected)
    if not codes:
        raise UserError(f"{path} is empty: a run needs at least one line `qid Q0 docid rank score tag`.")
    return _grouped(path, tuple(codes), query_of.values, doc_ids.values, scores.values, tag)


class _Column:
    """An array that grows at its end. The memory behind the end is reserved, but not used."""

    def __init__(self, dtype: Any) -> None:
        self._array: NDArray[Any] = np.empty(0, dtype)
        self._end = 0

    def extend(self, part: NDArray[Any], expected: int) -> None:
        end = self._end + len(part)
        if end > len(self._array):
            larger = np.empty(max(end, expected, end * 3 // 2), self._array.dtype)
            larger[: self._end] = self._array[: self._end]
            self._array = larger
        self._array[self._end : end] = part
        self._end = end

    @property
    def values(self) -> NDArray[Any]:
        return self._array[: self._end]


def _grouped(
    path: Path,
    query_ids: tuple[str, ...],
    query_of: NDArray[np.int32],
    doc_ids: Ids,
    scores: NDArray[np.float32],
    tag: str,
) -> Run:
    if (query_of[1:] < query_of[:-1]).any():
        order = np.argsort(query_of, kind="stable")
        query_of, doc_ids, scores = query_of[order], doc_ids[order], scores[order]
    offsets = np.searchsorted(query_of, np.arange(len(query_ids) + 1, dtype=np.int32)).astype(np.int64)
    ranked = np.empty(len(scores), dtype=np.float64)
    for query_id, start, stop in zip(query_ids, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        ids = doc_ids[start:stop]
        if any_repeated(ids):
            twice = first_repeated(ids.tolist())
            first, second = lines_of(_blocks(path), query_id, twice)[:2]
            raise UserError(
                f"{path}, line {second}: document {twice} appears twice for query {query_id} (first on line {first}): "
                "keep one of them."
            )
        ordered, ranked[start:stop] = in_rank_order(ids, scores[start:stop])
        if ordered is not ids:
            doc_ids[start:stop] = ordered
    return Run(query_ids, offsets, doc_ids, ranked, tag)


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of the file in large blocks of whole lines.

    Raises:
        UserError: the file cannot be read, or a line goes on for more than `LONGEST_LINE` bytes.
    """
    try:
        with open_bytes(path) as file:
            while block := file.read(_READ_BYTES):
                rest = b"" if block.endswith(b"\n") else file.readline(LONGEST_LINE)
                if len(rest) == LONGEST_LINE:
                    raise UserError(f"{path} holds a line longer than {LONGEST_LINE >> 20} MiB: it is no run.")
                yield block + rest
    except FileNotFoundError as error:
        raise UserError(f"There is no run at {path}: check the name.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read to its end ({error}): copy or make the run again.") from error


def _check_one_word(words: Sequence[str], what: str) -> None:
    text = "\n".join(words).encode("utf-8")
    if words and text.split() != text.split(b"\n"):
        bad = next(word for word in words if len(word.encode("utf-8").split()) != 1)
        raise UserError(f"The {what} {bad!r} is empty or holds white space, which a run file cannot hold: rename it.")
