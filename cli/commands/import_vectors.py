"""`ibkd import`: build an index folder from existing vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..display.console import print_json, reporter, stdout
from ..options.common import (
    CORPUS_HELP,
    Device,
    DocumentPrompt,
    Dtype,
    Json,
    MaxLength,
    Overwrite,
    Pooling,
    QueryPrompt,
    Quiet,
    Resume,
    given_options,
)
from ..options.index import CHOICES


def import_vectors(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help=".npy file (with --ids) or folder of vectors.npy and ids.txt; parquet file or folder; Pyserini folder "
            "(index, docid); Tevatron's .pkl file or folder (with --allow-pickle).",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Index folder to make.")],
    ids: Annotated[
        Path | None, typer.Option(help="Ids of a .npy file: one a line, first column of a .tsv, column of a .parquet.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS",
            help=f"Texts, found by id: {CORPUS_HELP}",
            show_default="those of a parquet file, else none",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Encoder that made the vectors: folder or hub name.",
            show_default="none: search by vectors only",
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="flat (exact) or ivf-pq (compressed, refined with the exact vectors).",
            show_default="flat; resumed, what it was",
        ),
    ] = None,
    vectors: Annotated[
        str,
        typer.Option(help="How exact vectors are stored: float32, float16 (half the bytes) or int8 (a quarter)."),
    ] = "float32",
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scale vectors to length 1: inner product becomes cosine.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pickle files. Unsafe: such a file can run any program on this machine while it is read, so use "
            "it only for files that you or somebody you trust made.",
        ),
    ] = False,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of vectors that were encoded elsewhere; a killed run goes on with --resume."""
    from ibkd_retrieval.indexing import api

    given = given_options(context)
    choices = {name: value for name, value in context.params.items() if name in given and name in CHOICES}
    made = api.import_vectors(
        path,
        output,
        ids=ids,
        corpus=corpus,
        model=model,
        normalise=normalise,
        allow_pickle=allow_pickle,
        resume=resume,
        overwrite=overwrite,
        progress=reporter(quiet),
        **choices,
    )
    if json:
        print_json(made.to_json())
        return
    manifest = made.manifest
    by = f"of {manifest.encoder.name}" if model is not None else "searchable by vectors only (no --model was named)"
    stdout().print(
        f"{output}: {manifest.document_count:,} vectors × {manifest.dim} dimensions, {manifest.factory}, {by}",
    )
