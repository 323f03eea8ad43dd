"""Filters: conditions on documents, and the rows that satisfy them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.corpora.records import FieldScalar, FieldValue
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.importing.documents import read_ids
from ibkd_retrieval.progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ibkd_retrieval.indexing.index import StoredIndex

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_TRUTH = {"true": True, "false": False}
_REPORT_EVERY = 1 << 14


@dataclass(frozen=True)
class Condition:
    """A comparison of one field of a document with a value, as in `year>=1990`.

    Attributes:
        field: `id`, `title`, or one of `Document.fields`.
        comparison: =, !=, <, <=, > or >=.
        value: the text as typed. It is read as a number for fields that hold numbers, and as true or false for fields
            that hold these. Texts compare by code point, so dates such as 2024-05-31 compare by time. Of a list, one
            entry must satisfy the comparison, and for != every entry.
    """

    field: str
    comparison: str
    value: str

    def __str__(self) -> str:
        """The condition as typed, without white space."""
        return f"{self.field}{self.comparison}{self.value}"

    def holds(self, stored: FieldValue) -> bool:
        """Whether a document with the value `stored` passes.

        Raises:
            UserError: the field holds numbers, or true and false, and the value is something else.
        """
        if isinstance(stored, list):
            return (all if self.comparison == "!=" else any)(map(self._holds, stored))
        return self._holds(stored)

    def _holds(self, stored: FieldScalar) -> bool:
        wanted: FieldScalar | None = self.value
        if isinstance(stored, bool):
            wanted = _TRUTH.get(self.value.lower())
        elif isinstance(stored, int | float):
            wanted = _number(self.value)
        if wanted is None:
            kind = "true or false" if isinstance(stored, bool) else f"numbers, such as {stored}"
            raise UserError(f"The filter {self} compares {self.field}, which holds {kind}, with {self.value!r}.")
        return _OPERATORS[self.comparison](stored, wanted)


def parse_condition(text: str) -> Condition:
    """Read a condition such as `year>=1990`.

    Raises:
        UserError: it has no field, no comparison or no value.
    """
    found = _CONDITION.fullmatch(text)
    if found is None or not found[3]:
        raise UserError(
            f"The filter {text!r} is no condition: write FIELD, one of {' '.join(_OPERATORS)} and a value, as in "
            "year>=1990, or @FILE for a file of document ids."
        )
    return Condition(found[1], found[2], found[3])


def allowed_rows(
    indexes: Sequence[StoredIndex], filters: Sequence[str], progress: Progress = SILENT
) -> list[NDArray[np.bool_]]:
    """The rows of each index whose documents pass every filter. The stored documents are read as a stream.

    A document that lacks a field does not pass a condition on that field.

    Args:
        indexes: opened indexes.
        filters: conditions (`parse_condition`), or `@FILE` with document ids, one a line.
        progress: receives the number of documents read.

    Returns:
        A bool [n] for each index.

    Raises:
        UserError: a filter cannot be read, no document has its field, or no document passes.
    """
    conditions = [parse_condition(text) for text in filters if not text.startswith("@")]
    listed = [_ids_in(Path(text[1:])) for text in filters if text.startswith("@")]
    masks = [np.ones(index.manifest.rows, dtype=np.bool_) for index in indexes]
    on_ids = [condition for condition in conditions if condition.field == "id"]
    on_fields = [condition for condition in conditions if condition.field != "id"]
    if listed or on_ids:
        for index, mask in zip(indexes, masks, strict=True):
            for row, doc_id in enumerate(index.all_ids()):
                mask[row] = all(doc_id in ids for ids in listed) and all(each.holds(doc_id) for each in on_ids)
    if on_fields:
        known = {"id", "title"}
        with progress.task("Filtering", sum(index.manifest.rows for index in indexes), "documents") as task:
            for index, mask in zip(indexes, masks, strict=True):
                mask &= _passing(index, on_fields, known, task)
        unknown = [condition for condition in on_fields if condition.field not in known]
        if unknown:
            raise UserError(
                f"No document has the field `{unknown[0].field}` of the filter {unknown[0]}: the fields are "
                f"{', '.join(sorted(known))}."
            )
    for index, mask in zip(indexes, masks, strict=True):
        if index.present is not None:
            mask &= index.present
    if not any(mask.any() for mask in masks):
        raise UserError(f"No document passes the filter {' and '.join(filters)}: loosen it.")
    passed = sum(int(np.count_nonzero(mask)) for mask in masks)
    progress.say(f"{passed:,} of {sum(map(len, indexes)):,} documents pass {' and '.join(filters)}")
    return masks


def _passing(index: StoredIndex, conditions: Sequence[Condition], known: set[str], task: Task) -> NDArray[np.bool_]:
    mask = np.zeros(index.manifest.rows, dtype=np.bool_)
    with_title = any(condition.field == "title" for condition in conditions)
    for row, fields in enumerate(_stored_fields(index, with_title)):
        known.update(fields)
        mask[row] = all(each.field in fields and each.holds(fields[each.field]) for each in conditions)
        if row % _REPORT_EVERY == _REPORT_EVERY - 1:
            task.advance(_REPORT_EVERY)
    task.advance(index.manifest.rows % _REPORT_EVERY)
    return mask


def _stored_fields(index: StoredIndex, with_title: bool) -> Iterator[dict[str, FieldValue]]:
    """The fields of each document in row order, with its title if asked."""
    if with_title:
        for document in index.documents():
            yield {**document.fields, "title": document.title}
    else:
        yield from index.fields()


def _ids_in(path: Path) -> frozenset[str]:
    ids = frozenset(read_ids(path))
    if not ids:
        raise UserError(f"{path} lists no document ids: write one a line.")
    return ids


def _number(text: str) -> float | None:
    for kind in (int, float):  # A large whole number as a float is another number.
        try:
            return kind(text)
        except ValueError:
            continue
    return None
