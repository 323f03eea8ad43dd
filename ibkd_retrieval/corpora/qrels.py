"""Judgements in files, plain or compressed: TREC qrels, the TSV of BEIR, click logs and graded labels.

- `.csv`, `.tsv`: columns for query, document and grade. A header may name them in any order. Without a grade, as in a
  click log, every pair is relevant. A query may be named by its text.
- `.jsonl`, `.parquet`: the same names as keys or columns.
- Any other file is split at white space: `query 0 document relevance` of TREC, or the three columns of BEIR.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.columns import is_header, listed, normalised
from ibkd_retrieval.corpora.formats import format_suffix, read_cells, read_lines, read_records
from ibkd_retrieval.corpora.records import Judgement, checked_id, encodable
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_QUERIES = (
    *("query_id", "qid", "query", "topic", "topic_id", "query_text", "question_id", "question", "question_text"),
    *("search", "search_term", "keywords", "q"),
)
_DOCUMENTS = (
    *("corpus_id", "doc_id", "docid", "document_id", "document", "docno", "pid", "passage_id", "article_id"),
    *(
        "article_no",
        "product_id",
        "item_id",
        "clicked_id",
        "clicked_doc",
        "clicked_document",
        "clicked",
        "result_id",
        "clicked_url",
    ),
    *("page_id", "post_id", "doc", "id"),
)
_GRADES = (
    *("score", "relevance", "rel", "label", "grade", "rating", "weight", "judgement", "judgment", "relevance_label"),
    *("clicks", "count", "gain", "value"),
)
_SURE = ("query_id", "qid", "query", "query_text", "corpus_id", "doc_id", "docid", "document_id", "docno")
_NAMES = (*_QUERIES, *_DOCUMENTS, *_GRADES)
# The grades of trec_eval. int() would also accept underscores and digits of other scripts.
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

_Line = tuple[str, str, Any, str]  # query, document, grade, where


def read_qrels(path: Path, qrels_threshold: float | None = None, progress: Progress = SILENT) -> tuple[Judgement, ...]:
    """Read judgements in the order of the file. Repeated equal judgements count once.

    Args:
        path: the file.
        qrels_threshold: the grade from which a document is relevant (1, else 0). It is needed for fractional grades. Of
            several grades of one pair, the highest counts.
        progress: the display. It shows the columns.

    Raises:
        UserError: the file is unreadable or empty, a line has another number of columns, a grade is not an integer, or
        one
            document has two grades for one query. The message names file and line.
    """
    suffix = format_suffix(path)
    if suffix in (".jsonl", ".ndjson", ".json", ".parquet"):
        lines = _from_records(path, progress)
    elif suffix in (".csv", ".tsv"):
        lines = _from_columns(path, progress)
    else:
        lines = _from_words(path)
    grades: dict[tuple[str, str], int] = {}
    for query, document, grade, where in lines:
        relevance = grade_of(grade, qrels_threshold, where)
        pair = query, document
        if qrels_threshold is not None:
            grades[pair] = max(relevance, grades.get(pair, 0))
        elif grades.setdefault(pair, relevance) != relevance:
            raise UserError(
                f"{where}: document {document} is judged {relevance} for query {query}, but {grades[pair]} on an"
                " earlier line; keep one of the two."
            )
    if not grades:
        raise UserError(f"no judgements in {path}: it is empty, or has only a header or blank lines.")
    return tuple(Judgement(query, document, relevance) for (query, document), relevance in grades.items())


def grade_of(grade: object, qrels_threshold: float | None, where: str) -> int:
    """Return the grade as an integer. With a threshold, it is 1 from the threshold on, else 0.

    Raises:
        UserError: the grade is not a number, or not an integer without a threshold.
    """
    if isinstance(grade, float) and grade.is_integer() and abs(grade) < 1e15:  # of JSON and of tables
        grade = int(grade)
    text = str(grade).strip()
    if isinstance(grade, bool) or not (_WHOLE if qrels_threshold is None else _NUMBER).fullmatch(text):
        what = "a whole number" if qrels_threshold is None else "a number"
        shown = repr(grade) if isinstance(grade, str | bool) else repr(text)
        advice = ""
        if qrels_threshold is None and _NUMBER.fullmatch(text):
            advice = ", or `qrels_threshold`, the grade from which a document is relevant"
        raise UserError(f"{where}: the relevance is {shown}; expected {what}{advice}.")
    return int(text) if qrels_threshold is None else int(float(text) >= qrels_threshold)


def _from_words(path: Path) -> Iterator[_Line]:
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
        yield cells[0], cells[-2], cells[-1], where


def _from_columns(path: Path, progress: Progress) -> Iterator[_Line]:
    rows = read_cells(path)
    first = next(rows, None)
    if first is None:
        return
    width = len(first[1])
    if width == 1:  # a TREC file with another suffix
        yield from _from_words(path)
        return
    header = [cell.strip().strip('"') for cell in first[1]]
    if is_header(header, names=_NAMES, sure=_SURE):
        places = _places(header, str(path), progress)
    elif 2 <= width <= 4:
        rows = itertools.chain([first], rows)
        places = (0, 2, 3) if width == 4 else (0, 1, 2 if width == 3 else None)
    else:
        raise UserError(
            f"{path}, line {first[0]}: expected a query, a document and a grade, found {width} columns; name the"
            " columns in a first line, as in query_id, doc_id, score."
        )
    for number, cells in rows:
        where = f"{path}, line {number}"
        if len(cells) != width:
            raise UserError(f"{where}: expected {width} columns as on the first line, found {len(cells)}.")
        query, document, grade = (None if place is None else cells[place] for place in places)
        yield _line(query, document, 1 if grade is None else grade, where)


def _from_records(path: Path, progress: Progress) -> Iterator[_Line]:
    known: dict[tuple[str, ...], tuple[int, int, int | None]] = {}
    for where, record in read_records(path):
        keys = tuple(record)
        if keys not in known:
            known[keys] = _places(keys, str(path), SILENT if known else progress)
        values = list(record.values())
        query, document, grade = (None if place is None else values[place] for place in known[keys])
        yield _line(query, document, 1 if known[keys][2] is None else grade, where)


def _line(query: object, document: object, grade: object, where: str) -> _Line:
    # A click log names a query by its text.
    text = encodable(query.strip(), where) if isinstance(query, str) else checked_id(query, where)
    if not text:
        raise UserError(f"{where}: the query is empty; leave the line out.")
    return text, checked_id(document.strip() if isinstance(document, str) else document, where), grade, where


def _places(names: Sequence[str], source: str, progress: Progress) -> tuple[int, int, int | None]:
    """Return the columns of query, document and grade: by their usual names, or the only one left."""
    found = [normalised(name) for name in names]
    query, document, grade = (
        next((found.index(name) for name in usual if name in found), None) for usual in (_QUERIES, _DOCUMENTS, _GRADES)
    )
    free = [place for place in range(len(names)) if place not in (query, document, grade)]
    if len(free) == 1 and (query is None) != (document is None):
        query, document = (free[0], document) if query is None else (query, free[0])
    if query is None or document is None:
        raise UserError(
            f"{source}: expected a query and a document under names such as query_id and doc_id; there are"
            f" {listed(names)}."
        )
    told = f"relevance <- {names[grade]}" if grade is not None else "no column of grades: every pair is relevant"
    progress.say(f"{source}: query <- {names[query]}, document <- {names[document]}, {told}")
    return query, document, grade
