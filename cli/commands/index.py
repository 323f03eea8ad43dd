"""`ibkd index`: build an index folder from a corpus, and change it later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..display.console import print_json, stdout
from ..options.common import CORPUS_HELP, CorpusFields, Output, Unfinished
from ..options.declare import ADVANCED, Given, flag, grouped, option
from ..options.index import Indexing, chosen_job

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.describe import IndexDescription

CHANGES = f"{ADVANCED}: make an index of indexes, or change one"


@dataclass(frozen=True)
class IndexOptions:
    """What an index is made of, and where it goes."""

    corpus: Annotated[str | None, option(CORPUS_HELP, default="pydocs", metavar="CORPUS")] = None
    model: Annotated[
        str | None,
        option(
            "Encoder: folder, hub name, or http://HOST/v1#MODEL for an endpoint.",
            default="the newest student in models/",
            metavar="MODEL",
        ),
    ] = None
    output: Annotated[
        Path | None, option("Index folder to make.", default="indexes/<corpus>-<model>-<type>", metavar="FOLDER")
    ] = None
    from_: Annotated[
        Path | None,
        option("Make it from this index: no corpus, no model, no encoding.", "--from", panel=CHANGES, metavar="INDEX"),
    ] = None
    merge: Annotated[
        tuple[Path, ...],
        option("Make it from several indexes of one model; name each with --merge.", panel=CHANGES, metavar="INDEX"),
    ] = ()
    append: Annotated[
        bool, flag("Add the corpus to the finished index named by --output.", "--append", panel=CHANGES)
    ] = False
    replace: Annotated[
        bool, flag("With --append: documents take the place of those with their ids.", panel=CHANGES)
    ] = False
    since: Annotated[
        str | None,
        option(
            "With --append: add only documents newer than the index's newest, by this field.",
            panel=CHANGES,
            metavar="FIELD",
        ),
    ] = None
    delete: Annotated[
        Path | None,
        option("Delete documents, one id a line, from the index named by --output.", panel=CHANGES, metavar="FILE"),
    ] = None


@grouped
def index(
    asked: IndexOptions,
    config: Indexing,
    fields: CorpusFields,
    begun: Unfinished,
    shown: Output,
    given: Given,
) -> None:
    """Encode a corpus and build an index folder, or change one.

    A killed run goes on with --resume. A finished index grows with --append, changes with --append --replace and
    shrinks with --delete. --from and --merge make a new index of finished ones, without encoding.
    """
    from ibkd_retrieval.indexing import api

    job = chosen_job(given)
    source = fields.corpus(asked.corpus or "pydocs", shown.progress)
    running: Any = {**vars(begun), "config": config, "progress": shown.progress}
    if job == "delete":
        made = api.delete(asked.output, asked.delete or Path())
    elif job == "append":
        made = api.append(asked.output, source, asked.model, replace=asked.replace, since=asked.since, **running)
    elif job in ("from_", "merge"):
        made = api.combine(asked.from_ or list(asked.merge), asked.output, **running)
    else:
        made = api.build_index(source, asked.model, asked.output, **running)
    shown.say_where_time_went()
    _print(made, shown.json)


def _print(made: IndexDescription, json: bool) -> None:
    if json:
        print_json(made.to_json())
        return
    manifest = made.manifest
    deleted = f" ({manifest.deleted_count:,} deleted)" if manifest.deleted_count else ""
    encoded = manifest.build.encode_seconds > 0
    speed = f"; encoded at {manifest.build.documents_per_second:,.0f} documents/s" if encoded else ""
    stdout().print(
        f"{made.folder}: {manifest.document_count:,} documents{deleted} × {manifest.dim} dimensions, "
        f"{manifest.factory}, {made.bytes_per_document:,.0f} bytes a document in memory{speed}",
    )
