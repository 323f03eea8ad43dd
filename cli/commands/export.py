"""`ibkd export`: an index or a model for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..display.console import reporter, stdout
from ..options.common import Quiet
from ..options.declare import ADVANCED, flag, grouped, option

HOW_TO_USE = {
    "pyserini": "search it with FaissSearcher({!r}, ...)",
    "numpy": 'read it with numpy.load("vectors.npy", mmap_mode="r"); ids.txt has an id for each row',
    "parquet": "documents.parquet has the columns id, title, text and vector",
    "onnx": "onnx/model.onnx takes input_ids and attention_mask and gives sentence_embedding",
}


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where it goes."""

    to: Annotated[
        str,
        option(
            "Format. Of an index: pyserini (index, docid: what its FaissSearcher reads), numpy (vectors.npy, ids.txt) "
            "or parquet (id, title, text, vector). Of a model: onnx (one graph and the tokenizer).",
            choices=tuple(HOW_TO_USE),
        ),
    ]
    output: Annotated[Path, option("New folder to write.", metavar="FOLDER")]
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="INDEX|MODEL",
            help="Index folder, the newest in indexes/ unless given; for onnx a model, the newest in models/.",
            show_default=False,
        ),
    ] = None
    index: Annotated[Path | None, option("The same, as an option.", metavar="INDEX", default=False)] = None
    quiet: Quiet = False
    exact: Annotated[
        bool,
        flag("For pyserini: write exact vectors, whatever the index's type.", "--exact", panel=ADVANCED),
    ] = False
    int8: Annotated[bool, flag("For onnx: also write the graph with weights in int8.", "--int8")] = False


@grouped
def export(asked: ExportOptions) -> None:
    """Write an index or a model in another tool's format."""
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.search.open import index_folder

    if asked.folder is not None and asked.index is not None:
        raise UserError(f"Two indexes were named, {asked.folder} and {asked.index}: name one.")
    progress = reporter(asked.quiet)
    named = asked.folder or asked.index
    source: Path | None = named if asked.to == "onnx" else index_folder(named, progress)
    ibkd.export(source, asked.to, asked.output, exact=asked.exact, int8=asked.int8, progress=progress)
    stdout().print(f"{asked.output}: {HOW_TO_USE[asked.to].format(str(asked.output))}")
