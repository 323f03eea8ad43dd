"""`ibkd export`: an index for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibkd_retrieval.search.open import index_folder

from ..display.console import reporter, stdout
from ..options.common import Quiet


def export(
    to: Annotated[
        str,
        typer.Option(
            help="pyserini (index, docid: what its FaissSearcher reads), numpy (vectors.npy, ids.txt) or parquet "
            "(id, title, text, vector)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="New folder to write.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="INDEX", help="Index folder.", show_default="the newest in indexes/")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="The same, as an option.", show_default=False)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="For pyserini: write exact vectors, whatever the index's type.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write an index in another tool's format."""
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing import api

    if folder is not None and index is not None:
        raise UserError(f"Two indexes were named, {folder} and {index}: name one.")
    progress = reporter(quiet)
    api.export(index_folder(folder or index, progress), to, output, exact=exact, progress=progress)
    use = {
        "pyserini": f"search it with FaissSearcher({str(output)!r}, ...)",
        "numpy": 'read it with numpy.load("vectors.npy", mmap_mode="r"); ids.txt has an id for each row',
        "parquet": "documents.parquet has the columns id, title, text and vector",
    }
    stdout().print(f"{output}: {use[to]}")
