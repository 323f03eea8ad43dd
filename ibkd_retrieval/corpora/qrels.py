"""Judgements in files: TREC qrels and BEIR's TSV, plain or compressed (`.gz`, `.zst`)."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.corpora.lines import read_lines
from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError

_BEIR_HEADER = ["query-id", "corpus-id", "score"]


def read_qrels(path: Path) -> tuple[Judgement, ...]:
    """Read judgements, in the file's order.

    A file of three columns is BEIR's `query-id corpus-id score`, with that line at its head or without; any other is
    TREC's `query 0 document relevance`. A judgement that is repeated with the same grade counts once.

    Raises:
        UserError: the file cannot be read or holds no judgement, a line has another number of columns, a grade is
            not a whole number, or one document has two grades for one query; it names file and line.
    """
    grades: dict[tuple[str, str], int] = {}
    width = 0
    for number, line in read_lines(path):
        cells = line.split()
        if not width:
            width = 3 if len(cells) == 3 else 4
            if [cell.lower() for cell in cells] == _BEIR_HEADER:
                continue
        where = f"{path}, line {number}"
        if len(cells) != width:
            expected = "query-id, corpus-id, score" if width == 3 else "query, 0, document, relevance"
            raise UserError(f"{where}: expected {width} columns ({expected}), found {len(cells)}.")
        try:
            relevance = int(cells[-1])
        except ValueError:
            raise UserError(f"{where}: the relevance is {cells[-1]!r}; expected a whole number.") from None
        pair = cells[0], cells[-2]
        if grades.setdefault(pair, relevance) != relevance:
            raise UserError(
                f"{where}: document {pair[1]} is judged {relevance} for query {pair[0]}, but {grades[pair]} on an"
                " earlier line; keep one of the two."
            )
    if not grades:
        raise UserError(f"no judgements in {path}: the file is empty.")
    return tuple(Judgement(query, document, relevance) for (query, document), relevance in grades.items())
