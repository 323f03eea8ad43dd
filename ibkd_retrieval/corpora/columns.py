"""Choice of the id, text and title fields of a record, by their usual names or by the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ibkd_retrieval.corpora.records import METADATA, NO_FIELDS, FieldValue, checked_id, encodable, fields_of
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

Row = tuple[str, str, str, Mapping[str, FieldValue]]
"""Id, title, text and further fields."""

_MOST_NAMES = 8
"""The most names listed in a message. The others are counted."""
_MOST_KEY_SETS = 1000
"""The most sets of keys whose columns are cached."""
_HEADER_WORDS = 3
"""The most words of a column name."""


class Fields(NamedTuple):
    """The fields that the user chose. The others are found by their usual names.

    Attributes:
        id_field: the name of the id field.
        text_field: the names of the text fields. Their texts are joined by a space.
        title_field: the name of the title field.
    """

    id_field: str | None = None
    text_field: tuple[str, ...] = ()
    title_field: str | None = None

    @classmethod
    def of(cls, id_field: str | None, text_field: str | Sequence[str] | None, title_field: str | None) -> Fields:
        """Make the choice from the parameters of the public functions."""
        texts = (text_field,) if isinstance(text_field, str) else tuple(text_field or ())
        return cls(id_field, texts, title_field)

    @property
    def chosen(self) -> tuple[str, ...]:
        """All names that the user chose."""
        return tuple(name for name in (self.id_field, *self.text_field, self.title_field) if name is not None)


AUTOMATIC = Fields()


@dataclass(frozen=True)
class Kind:
    """The usual field names of a kind of record, in order of preference.

    Attributes:
        kind: the word for one record.
        plural: the word for several records.
        ids: the usual names of the id.
        texts: the usual names of the text.
        titles: the usual names of the title.
    """

    kind: str
    plural: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    titles: tuple[str, ...] = ()


DOCUMENT = Kind(
    "document",
    "documents",
    (
        *("_id", "id", "docid", "doc_id", "docno", "document_id", "pid", "passage_id", "corpus_id", "article_id"),
        *("article_no", "article_number", "product_id", "item_id", "item_no", "record_id", "page_id", "post_id"),
        *("uid", "uuid", "guid", "sku", "asin", "number", "no", "key", "doc"),
    ),
    (
        *("text", "contents", "body", "content", "passage", "passage_text", "document", "document_text", "full_text"),
        *("abstract", "description", "article", "article_text", "paragraph", "details", "answer", "summary"),
    ),
    (
        *("title", "headline", "name", "heading", "subject", "doc_title", "document_title", "article_title"),
        *("product_name", "question"),
    ),
)
QUERY = Kind(
    "query",
    "queries",
    ("_id", "id", "qid", "query_id", "topic_id", "question_id", "number", "no", "key"),
    ("text", "query", "query_text", "question", "question_text", "search", "search_term", "keywords", "title"),
)
_SURE_IDS = frozenset({"_id", "id", "docid", "doc_id", "docno", "qid", "query_id", "document_id", "pid", "passage_id"})
_SURE_TEXTS = frozenset(
    {"text", "contents", "content", "body", "title", "headline", "passage", "query_text", "query", "question"}
)
_NAMES = frozenset(name for kind in (DOCUMENT, QUERY) for name in (*kind.ids, *kind.texts, *kind.titles))


class Columns(NamedTuple):
    """The fields to read from records with the same keys.

    Attributes:
        id: the name of the id field.
        texts: the names of the text fields.
        title: the name of the title field, None for no title.
        passed_over: the other fields that could be the text.
    """

    id: str
    texts: tuple[str, ...]
    title: str | None
    passed_over: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str | None, ...]:
        """All fields that are read as id, text or title."""
        return (self.id, *self.texts, self.title)


def normalised(name: str) -> str:
    """Normalise a field name for the lookup of usual names: `Article No` and `"Article No"` become `article_no`."""
    return re.sub(r"[\s.\-]+", "_", name.strip().strip('"').strip().lower())


def is_header(
    cells: Sequence[str], fields: Fields = AUTOMATIC, names: Iterable[str] = _NAMES, sure: Iterable[str] = ()
) -> bool:
    """Whether the first line of a file of columns is a header.

    It is one where the user chose columns by name, where two or more cells are usual field names, or where one cell is
    a field name that is never an id or a whole text.

    Args:
        cells: the cells of the line.
        fields: the user's choice of fields.
        names: the usual field names.
        sure: further names, of which one is enough.
    """
    found = [normalised(cell) for cell in cells]
    if fields.chosen:
        return not all(name.isdecimal() for name in fields.chosen)
    # pandas writes a column of row numbers without a name.
    if not all(
        (not cell.strip() or any(map(str.isalpha, cell))) and len(cell.split()) <= _HEADER_WORDS for cell in cells
    ):
        return False
    if found[0] in _SURE_IDS or not _SURE_TEXTS.isdisjoint(found[1:]) or not set(sure).isdisjoint(found):
        return True
    return len(set(names) & set(found)) > 1


def listed(names: Sequence[str]) -> str:
    """Format names for a message: the first ones, and the number of the others."""
    shown = ", ".join(str(name).encode("utf-8", "replace").decode() for name in names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def columns_of(keys: Sequence[str], kind: Kind, fields: Fields, where: str, *, lone: bool = False) -> Columns:
    """Choose the fields to read from records with these keys.

    Args:
        keys: the keys, in the order of the record.
        kind: the kind of record, with its usual names.
        fields: the user's choice of fields.
        where: the file and line for the error.
        lone: whether the only field left is the id or the text, whatever its name.

    Raises:
        UserError: a chosen field is missing, or no field has a usual name. The message lists the fields.
    """
    for parameter, chosen in (
        ("id_field", [fields.id_field]),
        ("text_field", fields.text_field),
        ("title_field", [fields.title_field]),
    ):
        for name in chosen:
            if name is not None and name not in keys:
                raise UserError(f"{where}: there is no field {name} for `{parameter}`; there are {listed(keys)}.")
    by_name = {normalised(key): key for key in reversed(keys)} | {key: key for key in keys}
    id_name = fields.id_field or next((by_name[name] for name in kind.ids if name in by_name), None)
    if id_name is None and lone:
        known = {by_name[name] for name in (*kind.texts, *kind.titles) if name in by_name} | set(fields.chosen)
        left = [key for key in keys if key not in known]
        id_name = left[0] if len(left) == 1 else None
    if id_name is None:
        raise _missing("id", "id_field", kind.ids, keys, where)
    taken = {id_name, fields.title_field}
    title = fields.title_field
    if not fields.chosen or (fields.id_field and not fields.text_field):
        title = title or next((by_name[name] for name in kind.titles if by_name.get(name, id_name) not in taken), None)
    if fields.text_field:
        return Columns(id_name, fields.text_field, title)
    taken.add(title)
    candidates = list(dict.fromkeys(by_name[name] for name in kind.texts if by_name.get(name, id_name) not in taken))
    left = [key for key in keys if key not in taken]
    if not candidates and lone and len(left) == 1:
        candidates = left
    if not candidates and title is not None:
        candidates, title = [title], None
    if not candidates:
        raise _missing("text", "text_field", kind.texts, keys, where)
    return Columns(id_name, (candidates[0],), title, tuple(candidates[1:]))


def _missing(what: str, parameter: str, names: Sequence[str], keys: Sequence[str], where: str) -> UserError:
    usual = " or ".join(f"`{name}`" for name in names[:4])
    there = f"; there are {listed(keys)}: choose one as `{parameter}`" if keys else ""
    return UserError(f"{where}: no {what}; expected it under {usual}{there}.")


class Reading:
    """Turns the records of one source into rows. It reports the fields once, however often the source is read.

    Args:
        kind: the kind of the records.
        source: the name of the source in messages.
        fields: the user's choice of fields.
        progress: the display. It shows the fields and the number of records without text.
    """

    def __init__(self, kind: Kind, source: str, fields: Fields = AUTOMATIC, progress: Progress = SILENT) -> None:
        self.kind = kind
        self.source = source
        self.fields = fields
        self.progress = progress
        self._columns: dict[tuple[str, ...], Columns] = {}
        self._said: set[str] = set()

    def row(self, record: Mapping[str, Any], where: str, *, lone: bool = False) -> Row:
        """Return the id, title, text and further fields of one record.

        Raises:
            UserError: it has no id or no text, or one of another type.
        """
        keys = tuple(record)
        columns = self._columns.get(keys)
        if columns is None:
            columns = columns_of(keys, self.kind, self.fields, where, lone=lone)
            self._say("columns", f"{self.source}: {described(columns, keys)}")
            if len(self._columns) < _MOST_KEY_SETS:
                self._columns[keys] = columns
        record_id = checked_id(record[columns.id], where)
        title = record[columns.title] if columns.title is not None else None
        if title is not None and not isinstance(title, str):
            raise UserError(f"{where}: the title is {type(title).__name__}; expected text.")
        text = self._text(record, columns, where)
        more = NO_FIELDS
        # Most BEIR documents have an empty metadata object. It must not cost time.
        used = 1 + len(columns.texts) + (columns.title is not None)
        if self.kind is DOCUMENT and len(record) > used + (record.get(METADATA) == {}):
            more = fields_of(record, columns.used, where)
        return record_id, encodable(title or "", where), text, more

    def row_of_cells(self, cells: Sequence[Any], where: str) -> Row:
        """Return the row of cells in the order id, optional title, text.

        Raises:
            UserError: the id or the text is of another type.
        """
        title = cells[1] if len(cells) == 3 and cells[1] is not None else ""
        if not isinstance(title, str):
            raise UserError(f"{where}: the title is {type(title).__name__}; expected text.")
        text = checked_text(cells[-1], self.kind, where)
        return checked_id(cells[0], where), encodable(title, where), text, NO_FIELDS

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on. At the end, report the number of rows without title and text.

        Raises:
            UserError: there is no row.
        """
        count = empty = 0
        for row in rows:
            count += 1
            empty += is_empty(row[1], row[2])
            yield row
        if not count:
            raise UserError(
                f"no {self.kind.plural} in {self.source}: it is empty, or has only a header or blank lines."
            )
        self.say_empty(empty, count)

    def say_empty(self, empty: int, count: int) -> None:
        """Report how many of the rows have no text."""
        if empty:
            self._say("empty", f"{self.source}: {empty:,} of {count:,} {self.kind.plural} have no text")

    def say_columns(self, message: str) -> None:
        """Report the fields of a source whose columns have no names."""
        self._say("columns", f"{self.source}: {message}")

    def _say(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.progress.say(message)

    def _text(self, record: Mapping[str, Any], columns: Columns, where: str) -> str:
        if len(columns.texts) == 1:
            return checked_text(record[columns.texts[0]], self.kind, where)
        parts = [record[name] for name in columns.texts if record[name] is not None]
        return checked_text(
            " ".join(filter(None, (checked_text(part, DOCUMENT, where) for part in parts))), self.kind, where
        )


def is_empty(title: str, text: str) -> bool:
    """Whether a record holds nothing to encode."""
    return not (text or title) or not (text.strip() or title.strip())


def described(columns: Columns, keys: Sequence[str]) -> str:
    """Describe the fields in one line: `id <- doc_id, text <- headline + body; not embedded: url, year`."""
    texts = " + ".join(filter(None, (columns.title, *columns.texts)))
    others = [key for key in keys if key not in columns.used]
    told = f"id <- {columns.id}, text <- {texts}"
    if others:
        told += f"; not embedded: {listed(others)}"
    if columns.passed_over:
        told += f" (several fields could be the text: `text_field` chooses among {columns.texts[0]}, "
        told += f"{listed(columns.passed_over)})"
    return told


def checked_text(value: object, kind: Kind, where: str) -> str:
    """Check the text of a record.

    Raises:
        UserError: it is not a string, or it is an empty query.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: the text is {type(value).__name__}; expected text.")
    if kind is QUERY and not value.strip():
        raise UserError(f"{where}: the query is empty; give it a text or leave the line out.")
    return encodable(value, where)
