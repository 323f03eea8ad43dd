"""`ibkd search`: one question, a prompt, or a batch run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..display.answers import show_answers
from ..display.console import print_json, reporter, stdout
from ..options.common import (
    Backend,
    Device,
    EfSearch,
    EncoderDtype,
    Engine,
    ExcludeSelf,
    Filter,
    Hybrid,
    IdField,
    Json,
    Model,
    Nprobe,
    Pooling,
    Queries,
    QueryModel,
    Quiet,
    Recall,
    Refine,
    Rerank,
    RerankDepth,
    RerankMaxLength,
    TextField,
    Tune,
    Weight,
)
from ..options.ranking import open_tuned, ranking_options

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.api import Index


def search(
    question: Annotated[
        str | None, typer.Argument(help="What to look for.", show_default="a prompt, on a terminal")
    ] = None,
    index: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="INDEX",
            help="Index folder; repeat to see two side by side, or with --queries to search them as one.",
            show_default="the newest in indexes/",
        ),
    ] = None,
    queries: Queries = None,
    id_field: IdField = None,
    text_field: TextField = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run file to write for --queries, .gz is compressed; what made it goes to OUTPUT.metadata.yaml."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="Of the run file: trec or msmarco.")] = "trec",
    k: Annotated[
        int | None, typer.Option("--k", "-k", help="Results a query.", show_default="10, for a run 1000")
    ] = None,
    engine: Engine = "dense",
    hybrid: Hybrid = None,
    weights: Weight = None,
    tune: Tune = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = 100,
    rerank_max_length: RerankMaxLength = None,
    filters: Filter = None,
    exclude_self: ExcludeSelf = False,
    nprobe: Nprobe = None,
    refine: Refine = None,
    ef_search: EfSearch = None,
    recall: Recall = None,
    model: Model = None,
    query_model: QueryModel = None,
    pooling: Pooling = None,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search an index: a question, a prompt on a terminal, or --queries with --output for a run."""
    options = ranking_options(locals())  # First: the arguments are all the names there are.
    from ibkd_retrieval.errors import UserError

    if k is not None and k < 1:
        raise UserError(f"The number of results must be at least 1, not {k}: give -k 1 or more.")
    if (queries is None) != (output is None):
        raise UserError("A batch search needs both --queries QUERIES and --output RUN.")
    if queries is not None and question is not None:
        raise UserError("Give either a question or --queries, not both.")
    progress = reporter(quiet)
    if queries is not None and output is not None:
        from ibkd_retrieval.corpora.spec import open_queries
        from ibkd_retrieval.search.runs.run_files import require_run_target

        written = require_run_target(output, format)
        asked = open_queries(queries, progress=progress, id_field=id_field, text_field=text_field)
        (opened,) = open_tuned([index or None], options, progress)
        run = opened.search_batch(asked, k or 1000)
        run.save(output, written)
        seconds = run.origin.seconds if run.origin else 0.0
        if json:
            print_json({"run": str(output), "queries": len(run), "results": len(run.doc_ids), "seconds": seconds})
        else:
            stdout().print(f"{output}: {len(run):,} queries, {len(run.doc_ids):,} results")
        return
    if format != "trec":
        raise UserError("--format is that of the run file: give --queries and --output too.")
    if id_field or text_field:
        raise UserError("--id-field and --text-field are those of --queries: give that too.")
    if exclude_self:
        raise UserError("--exclude-self goes with --queries: a typed question has no id.")
    at_prompt = question is None and sys.stdin.isatty()
    questions = [] if at_prompt else _piped_questions() if question is None else [question]
    if not at_prompt and not questions:
        raise UserError('No question: type one after `ibkd search`, as in `ibkd search "split a list"`.')
    indexes = open_tuned([[each] for each in index or []] or [None], options, progress)
    for text in questions:
        show_answers([each.search(text, k or 10) for each in indexes], json)
    if at_prompt:
        for each in indexes:
            progress.say(f"{len(each):,} documents in {each.folder}; an empty line ends")
        _prompt(indexes, k or 10, json, progress)


def _prompt(indexes: list[Index], k: int, json: bool, progress: Progress) -> None:
    from ibkd_retrieval.errors import UserError

    from ..display.prompt import typed_questions

    for text in typed_questions(progress):
        try:
            show_answers([each.search(text, k) for each in indexes], json)
        except UserError as error:
            print(f"ibkd: {error}", file=sys.stderr)  # noqa: T201


def _piped_questions() -> list[str]:
    """The lines of standard input that hold anything.

    Raises:
        UserError: a line is not in the encoding of standard input.
    """
    from ibkd_retrieval.errors import UserError

    lines = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            lines.append(line.decode(sys.stdin.encoding).strip())
        except UnicodeDecodeError:
            raise UserError(
                f"Line {number} of standard input is not {sys.stdin.encoding.upper()}: save the questions in that."
            ) from None
    return [line for line in lines if line]
