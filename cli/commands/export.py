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
    "parquet": "documents.parquet has the columns id, title, text, metadata (the fields) and vector",
    "lancedb": "search it with table.search(vector).distance_type('dot')",
    "pgvector": "search it with SELECT id FROM {} ORDER BY embedding <#> %s LIMIT 10",
    "qdrant": "search it with client.query_points({!r}, query=vector)",
    "store": "search it with `ibkd search --index {}`",
    "onnx": "onnx/model.onnx takes input_ids and attention_mask and gives sentence_embedding",
    "openvino": "openvino/openvino_model.xml takes input_ids and attention_mask and gives sentence_embedding",
    "router": "SentenceTransformer({!r}) has encode_query (the student) and encode_document (the teacher)",
}


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where it goes."""

    to: Annotated[
        str,
        option(
            "Format. Of an index: pyserini (index, docid: what its FaissSearcher reads), numpy (vectors.npy, ids.txt) "
            "or parquet (id, title, text, fields, vector); a database at `--url`: lancedb, pgvector or qdrant; or "
            "store: the index as it is, in an object store at `--url`. Of a model: onnx or openvino (one graph and the "
            "tokenizer), or router (a student in its teacher's space for queries, and the teacher for documents).",
            choices=tuple(HOW_TO_USE),
        ),
    ]
    output: Annotated[Path | None, option("New folder to write.", metavar="FOLDER", default=False)] = None
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="INDEX|MODEL",
            help="Index folder, the newest in indexes/ unless given; or a model, the newest in models/.",
            show_default=False,
        ),
    ] = None
    index: Annotated[Path | None, option("The same, as an option.", metavar="INDEX", default=False)] = None
    quiet: Quiet = False
    exact: Annotated[
        bool,
        flag("For pyserini: write exact vectors, whatever the index's type.", "--exact", panel=ADVANCED),
    ] = False
    int8: Annotated[bool, flag("For onnx and openvino: also write the graph with weights in int8.", "--int8")] = False
    teacher: Annotated[
        str | None,
        option("For router: the teacher, if it was moved.", metavar="MODEL", default="the student's record"),
    ] = None
    url: Annotated[
        str | None,
        option(
            "Address of the database: postgresql://USER@HOST/DATABASE, http://HOST:6333, or a folder; or of the "
            "store: s3://BUCKET/NAME or gs://BUCKET/NAME.",
            metavar="URL",
            default=False,
        ),
    ] = None
    table: Annotated[str, option("For a database: the table or collection to make.", metavar="NAME")] = "documents"
    resume: Annotated[bool, flag("For a database: continue an interrupted export.", "--resume")] = False
    overwrite: Annotated[bool, flag("Replace the table of a database, or another index in a store.", "--overwrite")] = (
        False
    )


@grouped
def export(asked: ExportOptions) -> None:
    """Write an index or a model in another tool's format."""
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.remote import UploadedIndex
    from ibkd_retrieval.search.open import index_folder

    if asked.folder is not None and asked.index is not None:
        raise UserError(f"Two indexes were named, {asked.folder} and {asked.index}: name one.")
    progress = reporter(asked.quiet)
    named = asked.folder or asked.index
    source: Path | None = named if asked.to in ("onnx", "openvino", "router") else index_folder(named, progress)
    made = ibkd.export(
        source,
        asked.to,
        asked.output,
        exact=asked.exact,
        int8=asked.int8,
        teacher=asked.teacher,
        url=asked.url,
        table=asked.table,
        resume=asked.resume,
        overwrite=asked.overwrite,
        progress=progress,
    )
    if isinstance(made, Path):
        stdout().print(f"{made}: {HOW_TO_USE[asked.to].format(str(made))}")
        return
    if isinstance(made, UploadedIndex):
        stdout().print(
            f"{made.url}: {made.documents:,} documents in {made.files:,} files, {made.bytes / 1e6:,.1f} MB. "
            f"Search it with `ibkd search --index {made.url}`."
        )
        return
    stdout().print(
        f"{made.table}: {made.documents:,} documents, overlap@10 with exact search {made.overlap_at_10:.3f} "
        f"({made.queries} queries{f', {made.search_params}' if made.search_params else ''}). "
        f"{HOW_TO_USE[asked.to].format(made.table)}"
    )
