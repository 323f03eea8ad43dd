"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODELS = Path("models")
INDEXES = Path("indexes")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16; auto is what the hardware multiplies fastest.")
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens to read of a text.", show_default="the model's own limit")]
Pooling = Annotated[
    str | None, typer.Option(help="mean or cls, for a plain transformers encoder.", show_default="mean")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Seed = Annotated[int, typer.Option(help="Of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no remarks.")]
Queries = Annotated[
    str | None,
    typer.Option(
        metavar="QUERIES",
        help="ir_datasets id or short name, BEIR folder (folder:split), file, or pydocs.",
    ),
]
Nprobe = Annotated[int | None, typer.Option(help="Inverted lists to visit.", show_default="the index's own")]
Refine = Annotated[
    int | None, typer.Option(help="Candidates per result scored exactly.", show_default="the index's own")
]
QueryModel = Annotated[str | None, typer.Option(metavar="MODEL", help="Query encoder.", show_default="the index's own")]
CORPUS_HELP = "ir_datasets id or short name (msmarco, scifact, ...), BEIR folder, JSONL/TSV/parquet file, or pydocs."
