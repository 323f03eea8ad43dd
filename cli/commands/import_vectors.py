"""`ibkd import`: build an index folder from existing vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..display.console import print_json, stdout
from ..options.common import CORPUS_HELP, Output, Unfinished
from ..options.declare import ADVANCED, flag, grouped, option
from ..options.index import Importing


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and where it goes."""

    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help=".npy or .faiss file (with --ids) or folder of vectors.npy and ids.txt; parquet file or folder; "
            "Pyserini folder (index, docid); Tevatron's .pkl file or folder (with --allow-pickle).",
        ),
    ]
    output: Annotated[Path, option("Index folder to make.", metavar="FOLDER")]
    ids: Annotated[
        Path | None,
        option(
            "Ids of a .npy or .faiss file: one a line, first column of a .tsv, ids of a .jsonl, column of a .parquet.",
            metavar="FILE",
        ),
    ] = None
    corpus: Annotated[
        str | None,
        option(f"Texts, found by id. {CORPUS_HELP}", metavar="CORPUS", default="those of a parquet file, else none"),
    ] = None
    model: Annotated[
        str | None,
        option(
            "Encoder that made the vectors: folder or hub name.",
            metavar="MODEL",
            default="none: search by vectors only",
        ),
    ] = None
    normalise: Annotated[
        bool, flag("Scale vectors to length 1: inner product becomes cosine.", "--normalise", panel=ADVANCED)
    ] = False
    allow_pickle: Annotated[
        bool,
        flag(
            "Read pickle files. Unsafe: such a file can run any program on this machine while it is read, so use "
            "it only for files that you or somebody you trust made.",
            "--allow-pickle",
            panel=ADVANCED,
        ),
    ] = False


@grouped
def import_vectors(asked: ImportOptions, config: Importing, begun: Unfinished, shown: Output) -> None:
    """Make an index of vectors that were encoded elsewhere.

    A killed run goes on with --resume.
    """
    from ibkd_retrieval.indexing import api

    made = api.import_vectors(**vars(asked), **vars(begun), config=config, progress=shown.progress)
    shown.say_where_time_went()
    if shown.json:
        print_json(made.to_json())
        return
    manifest = made.manifest
    named = asked.model is not None
    by = f"of {manifest.encoder.name}" if named else "searchable by vectors only (no --model was named)"
    stdout().print(
        f"{made.folder}: {manifest.document_count:,} vectors × {manifest.dim} dimensions, {manifest.factory}, {by}",
    )
