"""`ibkd index`: build an index folder from a corpus, and change it later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..display.console import print_json, reporter, stdout
from ..options.common import (
    CORPUS_HELP,
    Backend,
    Device,
    DocumentPrompt,
    EncoderDtype,
    IdField,
    Json,
    MaxLength,
    Overwrite,
    Pooling,
    QueryPrompt,
    Quiet,
    Resume,
    TextField,
    TitleField,
    corpus_source,
    given_options,
)
from ..options.index import CHOICES, chosen_job

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.describe import IndexDescription


def index(
    context: typer.Context,
    corpus: Annotated[str | None, typer.Option(metavar="CORPUS", help=CORPUS_HELP, show_default="pydocs")] = None,
    id_field: IdField = None,
    text_field: TextField = None,
    title_field: TitleField = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Encoder: folder or hub name.", show_default="the newest student in models/"
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="flat (exact), ivf-pq, ivf-flat, hnsw, sq8, rabitq or factory (approximate).",
            show_default="flat; resumed, what it was",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Index folder to make.", show_default="indexes/<corpus>-<model>-<type>")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="INDEX", help="Make it from this index: no corpus, no model, no encoding."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="INDEX", help="Make it from several indexes of one model; name each with --merge."),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the corpus to the finished index named by --output.")
    ] = False,
    delete: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Delete documents, one id a line, from the index named by --output."),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="Store vectors as float32, float16 or int8; the last two round.", show_default="float32"),
    ] = None,
    factory: Annotated[
        str | None, typer.Option(metavar="STRING", help="A faiss factory string, as in OPQ48,IVF4096,PQ48x4fs.")
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Share of the exact ten nearest to find; without --type, the type is chosen by trial."),
    ] = None,
    memory_per_vector: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Most memory a vector may take while searched, for --recall.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(metavar="MILLISECONDS", help="Most time a query may take, for --recall.")
    ] = None,
    lists: Annotated[
        int | None, typer.Option(help="Inverted lists.", show_default="by the number of documents")
    ] = None,
    subquantisers: Annotated[
        int | None, typer.Option(help="Parts a vector is coded in, ivf-pq.", show_default="dimensions / 4")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits a part, ivf-pq (4 or 8) and rabitq.")] = None,
    nprobe: Annotated[int | None, typer.Option(help="Lists visited by default.", show_default="measured")] = None,
    refine: Annotated[
        int | None, typer.Option(help="Candidates per result scored exactly.", show_default="measured")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(help="Nodes kept in view by default, hnsw.", show_default="measured")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Encoder processes: they share the cores, or take a GPU each in turn.")
    ] = 1,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory to take, such as 2GB or 512MB; an index type that needs more is refused.",
            show_default="a quarter of the machine's",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Documents a shard; a killed run loses the few in the making.",
            show_default="8192, less in little memory",
        ),
    ] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dim: Annotated[
        int | None,
        typer.Option(help="Cut vectors to this length; for students of `ibkd distill --dims`.", show_default="all"),
    ] = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens in one batch, padding counted.",
            show_default="4096 (65536 on a GPU), less in little memory",
        ),
    ] = None,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a corpus and build a searchable index folder; a killed run goes on with --resume.

    A finished index grows with --append and shrinks with --delete; --from and --merge make new ones of finished ones.
    """
    from ibkd_retrieval.indexing import api

    given = given_options(context)
    job = chosen_job([name for name in context.params if name in given])
    choices = {name: value for name, value in context.params.items() if name in given and name in CHOICES}
    progress = reporter(quiet)
    fields = {"id_field": id_field, "text_field": text_field, "title_field": title_field}
    source = corpus_source(corpus or "pydocs", progress, **fields)
    running: Any = {"resume": resume, "overwrite": overwrite, "progress": progress}
    if job == "delete":
        made = api.delete(output, delete or Path())
    elif job == "append":
        made = api.append(output, source, model, **running, **choices)
    elif job in ("from_", "merge"):
        made = api.combine(from_ or merge, output, **running, **choices)
    else:
        made = api.build_index(source, model, output, **running, **choices)
    _print(made, json)


def _print(made: IndexDescription, json: bool) -> None:
    if json:
        print_json(made.to_json())
        return
    manifest = made.manifest
    deleted = f" ({manifest.deleted_count:,} deleted)" if manifest.deleted_count else ""
    stdout().print(
        f"{made.folder}: {manifest.document_count:,} documents{deleted} × {manifest.dim} dimensions, "
        f"{manifest.factory}, {made.bytes_per_document:,.0f} bytes a document in memory; encoded at "
        f"{manifest.build.documents_per_second:,.0f} documents/s",
    )
