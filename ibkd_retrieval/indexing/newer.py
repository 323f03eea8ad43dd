"""The documents of a corpus that are newer than those of an index, by a field such as the time of the last change."""

from __future__ import annotations

from collections.abc import Iterator

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.contents import IndexContents
from ibkd_retrieval.progress import Progress

Moment = str | int | float
"""A number, or a text that sorts by time, such as 2024-05-31."""


def newer_documents(index: IndexContents, corpus: Corpus, since: str, progress: Progress) -> Corpus:
    """The documents of `corpus` whose field `since` is above the largest in the index. There may be none.

    Dates are often those of a day. So a document with the largest value itself is newer too, unless the index holds
    its id with that value. Deleted documents count as held: they do not come back.

    Args:
        index: the index.
        corpus: the corpus. It is read once here, and again whenever the result is.
        since: the field.
        progress: receives the number of newer documents, and of those left out because they lack the field.

    Raises:
        UserError: no document of the index has the field, or two values of it do not compare.
    """
    newest, ids = _newest(index, since, progress)

    def is_newer(document: Document) -> bool:
        value = _moment(document.fields.get(since), since, document.doc_id)
        if value is None:
            return False
        return _is_above(value, newest, since) or (value == newest and document.doc_id not in ids)

    def newer() -> Iterator[Document]:
        return filter(is_newer, corpus.documents())

    count = without = 0
    with progress.task("Reading documents", corpus.expected, "documents") as task:
        for document in corpus.documents():
            count += is_newer(document)
            without += document.fields.get(since) is None
            task.advance()
    left_out = f" {without:,} have no `{since}` and are left out." if without else ""
    progress.say(f"{count:,} documents of {corpus.name} are newer than {since}={newest} of the index.{left_out}")
    return Corpus(corpus.name, count, newer)


def _newest(index: IndexContents, since: str, progress: Progress) -> tuple[Moment, set[str]]:
    """The largest value of a field in the index, and the ids that have it."""
    newest: Moment | None = None
    ids: set[str] = set()
    with progress.task("Finding the newest document", index.manifest.rows, "documents") as task:
        for doc_id, fields in zip(index.all_ids(), index.fields(), strict=True):
            task.advance()
            value = _moment(fields.get(since), since, doc_id)
            if value is None:
                continue
            if newest is None or _is_above(value, newest, since):
                newest, ids = value, {doc_id}
            elif value == newest:
                ids.add(doc_id)
    if newest is None:
        raise UserError(
            f"No document of the index in {index.folder} has the field `{since}`: name another with `since`, or leave "
            "it out."
        )
    return newest, ids


def _moment(value: object, since: str, doc_id: str) -> Moment | None:
    if value is None or (isinstance(value, Moment) and not isinstance(value, bool)):
        return value
    raise UserError(
        f"The field `{since}` of {doc_id} is {value!r}: `since` needs a number, or a text that sorts by time."
    )


def _is_above(value: Moment, newest: Moment, since: str) -> bool:
    if isinstance(value, str) != isinstance(newest, str):
        raise UserError(f"The field `{since}` holds {value!r} and {newest!r}, which do not compare: give it one type.")
    return value > newest  # type: ignore[operator]
