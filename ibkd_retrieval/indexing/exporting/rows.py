"""The documents of an index with their vectors, as Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ibkd_retrieval.corpora.records import METADATA, Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.contents import IndexContents, Rows

_LONGEST_INTEGER = 1 << 63


class ArrowRows:
    """Makes Arrow tables of rows: `id`, `title`, `text`, `metadata` (a struct of the fields) and `vector`.

    The fields are read once before, for their names and types. A field of integers and fractions becomes a float. A
    field with lists becomes a list. Any other mixture becomes text.

    Attributes:
        schema: the schema of the tables. It has no `metadata` if no document has fields.
    """

    def __init__(self, index: IndexContents) -> None:
        import pyarrow as pa

        self._types = _field_types(index)
        fields = pa.struct([(name, _arrow_type(name_of_type)) for name, name_of_type in self._types.items()])
        self.schema = pa.schema(
            [
                *(pa.field(name, pa.string(), nullable=False) for name in ("id", "title", "text")),
                *([pa.field(METADATA, fields)] if self._types else []),
                pa.field("vector", pa.list_(pa.float32(), index.manifest.dim), nullable=False),
            ]
        )

    def batch(self, rows: Rows) -> Any:
        """A `pyarrow.RecordBatch`.

        Raises:
            UserError: a text cannot be encoded.
        """
        import pyarrow as pa

        documents, vectors = rows
        try:
            columns = [
                pa.array([getattr(document, name) for document in documents], pa.string())
                for name in ("doc_id", "title", "text")
            ]
            if self._types:
                columns.append(pa.array(map(self._fields, documents), self.schema.field(METADATA).type))
        except UnicodeEncodeError as error:
            raise half_a_pair(documents) from error
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]))
        return pa.record_batch(columns, schema=self.schema)

    def _fields(self, document: Document) -> dict[str, Any]:
        fields = document.fields
        return {name: _as_type(kind, fields[name]) for name, kind in self._types.items() if name in fields}


def half_a_pair(documents: list[Document]) -> UserError:
    """The error for a text without UTF-8 bytes."""
    return UserError(
        f"A text among {documents[0].doc_id!r} to {documents[-1].doc_id!r} holds half of a surrogate pair, which "
        "parquet and databases cannot hold: export with `to='numpy'`."
    )


def _field_types(index: IndexContents) -> dict[str, str]:
    types: dict[str, str] = {}
    for fields in index.fields():
        for name, value in fields.items():
            found = _type_of(value)
            known = types.get(name, found)
            if known != found or name not in types:
                types[name] = _common(known, found)
    return types


def _type_of(value: Any) -> str:
    """A scalar's type (bool, int64, double or string), or for a list "list" and the type of its elements."""
    if isinstance(value, list | tuple):
        elements = {_type_of(each) for each in value}
        return f"list {_common(*elements)}" if elements else "list "
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -_LONGEST_INTEGER <= value < _LONGEST_INTEGER else "string"
    return "double" if isinstance(value, float) else "string"


def _common(*types: str) -> str:
    if any(each.startswith("list ") for each in types):
        elements = {each.removeprefix("list ") for each in types} - {""}
        return f"list {_common(*elements)}" if elements else "list "
    kinds = set(types)
    if len(kinds) == 1:
        return kinds.pop()
    return "double" if kinds == {"int64", "double"} else "string"


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    if name.startswith("list "):
        return pa.list_(_arrow_type(name.removeprefix("list ") or "string"))
    return {"bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}[name]


def _as_type(kind: str, value: Any) -> Any:
    if kind.startswith("list "):
        values: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
        return [_as_type(kind.removeprefix("list "), each) for each in values]
    if kind == "string" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value
