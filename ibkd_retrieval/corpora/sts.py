"""Sentence pairs with human similarity scores, in the file formats of semantic textual similarity sets.

- `.tsv` or `.csv` with tabs and a header: STS-B and SICK-R under the names of GLUE (`score`, `sentence1`, `sentence2`)
  and of SICK's authors (`relatedness_score`, `sentence_A`, `sentence_B`), in any order, among any other columns.
- STS-B as first published: no header, genre, file, year, id, score and both sentences in columns 1 to 7.
- A SentEval folder (STS12 to STS16): `STS.input.<name>.txt` with two sentences a line, beside `STS.gs.<name>.txt`
  with their scores, a blank line for a pair nobody scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ibkd_retrieval.corpora.formats import format_suffix, read_lines
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import open_bytes

_SCORES = ("score", "similarity", "similarity_score", "relatedness_score")
_FIRST = ("sentence1", "sentence_a", "sent_1", "sent1")
_SECOND = ("sentence2", "sentence_b", "sent_2", "sent2")
_STSB_COLUMNS = (4, 5, 6)


class SentencePair(NamedTuple):
    """Two sentences and their human similarity score. Larger is more similar, on the scale of the set."""

    first: str
    second: str
    score: float


class PairSet(NamedTuple):
    """A named set of pairs."""

    name: str
    pairs: tuple[SentencePair, ...]


def read_pairs(path: Path) -> PairSet:
    """Read a file of pairs, or all pairs of a SentEval folder as one set, which is how its averages are reported.

    Raises:
        UserError: nothing of a known form is there, or a line is malformed; it names file and line.
    """
    if not path.exists():
        raise UserError(f"there is no file or folder {path}: name a file of scored sentence pairs.")
    pairs = tuple(_senteval(path) if path.is_dir() else _tabbed(path))
    if len(pairs) < 2:
        raise UserError(f"{path} holds {len(pairs)} scored pairs: a correlation needs at least two.")
    return PairSet(path.name if path.is_dir() else path.name.split(".")[0], pairs)


def _tabbed(path: Path) -> Iterator[SentencePair]:
    if format_suffix(path) not in (".tsv", ".csv", ".txt"):
        raise UserError(
            f"{path}: unknown kind of file; sentence pairs come as .tsv (.csv, .txt), columns split by tabs."
        )
    columns: tuple[int, int, int] | None = None
    for number, line in read_lines(path):
        cells = line.split("\t")
        where = f"{path}, line {number}"
        if columns is None:
            columns = _header(cells)
            if columns is not None:
                continue
            columns = _STSB_COLUMNS
            if len(cells) <= max(columns) or _number(cells[columns[0]]) is None:
                raise UserError(
                    f"{where}: no column of scores and two of sentences; expected a header with score, sentence1 and"
                    " sentence2 (or sentence_A, sentence_B, relatedness_score), or STS-B's seven columns."
                )
        # Some lines of STS-B have further columns with the source.
        if len(cells) <= max(columns):
            raise UserError(f"{where}: expected at least {max(columns) + 1} columns split by tabs, found {len(cells)}.")
        score, first, second = (cells[column] for column in columns)
        yield _pair(first, second, score, where)


def _header(cells: list[str]) -> tuple[int, int, int] | None:
    names = [cell.strip().lower() for cell in cells]
    places = [
        next((names.index(name) for name in known if name in names), None) for known in (_SCORES, _FIRST, _SECOND)
    ]
    score, first, second = places
    return None if score is None or first is None or second is None else (score, first, second)


def _senteval(folder: Path) -> Iterator[SentencePair]:
    inputs = sorted(folder.glob("STS.input.*.txt"))
    if not inputs:
        raise UserError(
            f"{folder} holds no STS.input.*.txt: name a file of pairs or a SentEval folder such as STS12-en-test."
        )
    for path in inputs:
        gold = path.with_name(path.name.replace("STS.input.", "STS.gs."))
        if not gold.is_file():
            raise UserError(f"{gold} is missing, which scores the pairs of {path.name}: fetch the folder again.")
        sentences, scores = _all_lines(path), _all_lines(gold)
        if len(sentences) != len(scores):
            raise UserError(
                f"{path} has {len(sentences)} lines and {gold.name} {len(scores)}: fetch both from the same download."
            )
        for number, (line, score) in enumerate(zip(sentences, scores, strict=True), 1):
            if not score.strip():
                continue
            cells = line.split("\t")
            if len(cells) < 2:
                raise UserError(f"{path}, line {number}: expected two sentences split by a tab.")
            yield _pair(cells[0], cells[1], score, f"{gold}, line {number}")


def _all_lines(path: Path) -> list[str]:
    """Read every line, also blank ones, because the two files of a SentEval set are parallel."""
    try:
        with open_bytes(path) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch the file again.") from None
    # Not splitlines: a sentence may contain Unicode line separators, such as U+2028.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _pair(first: str, second: str, score: str, where: str) -> SentencePair:
    value = _number(score)
    if value is None:
        raise UserError(f"{where}: the score is {score.strip()!r}; expected a number.")
    if not first.strip() or not second.strip():
        raise UserError(f"{where}: a sentence is empty; give the pair both or leave the line out.")
    return SentencePair(first.strip(), second.strip(), value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
