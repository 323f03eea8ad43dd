"""`ibkd export`: an index for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import reporter, stdout
from .opening import index_folder
from .options import Quiet


def export(
    to: Annotated[str, typer.Option(help="pyserini: the folder that Pyserini's FaissSearcher reads.")],
    output: Annotated[Path, typer.Option(help="New folder to write.")],
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Index folder.", show_default="the newest in indexes/")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Write exact vectors, whatever the index's type.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write an index in another tool's format."""
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.export import export_pyserini

    if to != "pyserini":
        raise UserError(f"Unknown format `{to}`: use pyserini.")
    progress = reporter(quiet)
    export_pyserini(index_folder(index, progress), output, exact=exact, progress=progress)
    stdout().print(f"{output}: search it with FaissSearcher({str(output)!r}, ...)", markup=False)
