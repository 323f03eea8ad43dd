"""`ibkd search`: one question, a prompt, or a batch run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import reporter, stdout
from .opening import index_folder, open_searcher
from .options import Device, Dtype, Json, Model, Nprobe, Pooling, Queries, Quiet, Refine

if TYPE_CHECKING:
    from ibkd_retrieval.search.ranking import Hit
    from ibkd_retrieval.search.searcher import Searcher


def search(
    question: Annotated[
        str | None, typer.Argument(help="What to look for.", show_default="a prompt, on a terminal")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Index folder.", show_default="the newest in indexes/")
    ] = None,
    queries: Queries = None,
    output: Annotated[Path | None, typer.Option(help="Run file to write for --queries; .gz is compressed.")] = None,
    format: Annotated[str, typer.Option(help="Of the run file: trec or msmarco.")] = "trec",
    k: Annotated[
        int | None, typer.Option("--k", "-k", help="Results a query.", show_default="10, for a run 1000")
    ] = None,
    nprobe: Nprobe = None,
    refine: Refine = None,
    model: Model = None,
    pooling: Pooling = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search an index: a question, a prompt on a terminal, or --queries with --output for a run."""
    from ibkd_retrieval.errors import UserError

    progress = reporter(quiet)
    if format not in ("trec", "msmarco"):
        raise UserError(f"Unknown run format `{format}`: use trec or msmarco.")
    if (queries is None) != (output is None):
        raise UserError("A batch search needs both --queries QUERIES and --output RUN.")
    if queries is not None and question is not None:
        raise UserError("Give either a question or --queries, not both.")
    folder = index_folder(index, progress)
    if queries is not None and output is not None:
        from ibkd_retrieval.corpora.resolve import open_queries
        from ibkd_retrieval.search.runs import write_run

        asked = open_queries(queries, progress=progress)
        searcher = open_searcher(
            folder, model=model, device=device, dtype=dtype, pooling=pooling, nprobe=nprobe, refine=refine
        )
        run = searcher.search_batch(asked.queries, k or 1000, progress, tag=folder.resolve().name.replace(" ", "_"))
        write_run(run, output, "msmarco" if format == "msmarco" else "trec")
        stdout().print(f"{output}: {len(run):,} queries, {len(run.doc_ids):,} results", markup=False)
        return
    if question is None and not sys.stdin.isatty():
        questions = [line.strip() for line in sys.stdin if line.strip()]
        if not questions:
            raise UserError('No question: type one after `ibkd search`, as in `ibkd search "split a list"`.')
    else:
        questions = [question] if question is not None else []
    searcher = open_searcher(
        folder, model=model, device=device, dtype=dtype, pooling=pooling, nprobe=nprobe, refine=refine
    )
    for text in questions:
        _answer(searcher, text, k or 10, json)
    if not questions:
        _prompt(searcher, folder, k or 10, json)


def _prompt(searcher: Searcher, folder: Path, k: int, json: bool) -> None:
    import contextlib

    from ibkd_retrieval.errors import UserError

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives the prompt history and editing

    stdout().print(f"{len(searcher.index):,} documents in {folder}; an empty line ends.", markup=False)
    while True:
        try:
            text = input("search> ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not text:
            break
        try:
            _answer(searcher, text, k, json)
        except UserError as error:
            stdout().print(str(error), markup=False)


def _answer(searcher: Searcher, text: str, k: int, json: bool) -> None:
    import time

    began = time.perf_counter()
    hits = searcher.search(text, k)
    milliseconds = 1000 * (time.perf_counter() - began)
    if json:
        import json as encoder

        shown = {"query": text, "milliseconds": round(milliseconds, 2), "hits": [_hit_as_json(hit) for hit in hits]}
        print(encoder.dumps(shown, ensure_ascii=False))  # noqa: T201
        return
    _show(text, hits, milliseconds, len(searcher.index))


def _hit_as_json(hit: Hit) -> dict[str, object]:
    document = hit.document
    return {
        "rank": hit.rank,
        "score": hit.score,
        "id": hit.doc_id,
        "title": document.title if document else "",
        "text": document.text if document else "",
    }


def _show(text: str, hits: list[Hit], milliseconds: float, documents: int) -> None:
    from rich.text import Text

    from ibkd_retrieval.search.snippet import snippet

    console = stdout()
    width = max(40, console.width - 6)
    for hit in hits:
        head = Text(f"{hit.rank:>3}  {hit.score:.4f}  ")
        head.append(hit.doc_id, style="bold")
        if hit.document is not None and hit.document.title:
            head.append(f"  {hit.document.title}")
        console.print(head, soft_wrap=True)
        if hit.document is not None:
            passage = snippet(hit.document, text, width)
            shown = Text("     " + passage.text, style="dim")
            for start, end in passage.matches:
                shown.stylize("bold not dim", start + 5, end + 5)
            console.print(shown, soft_wrap=True)
    console.print(f"{len(hits)} of {documents:,} documents in {milliseconds:.1f} ms", style="dim", markup=False)
