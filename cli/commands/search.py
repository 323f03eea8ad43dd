"""`ibkd search`: one question, a prompt, or a batch run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibkd_retrieval.search.open import index_folder, open_ranker
from ibkd_retrieval.search.options import RankerOptions

from ..display.answers import Asked, answer, show_answer
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
from ..options.ranking import ranking_options

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import QuerySet
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.progress import Progress


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
    weight: Weight = None,
    tune: Tune = None,
    rerank: Rerank = None,
    rerank_depth: RerankDepth = 100,
    rerank_max_length: RerankMaxLength = None,
    filter: Filter = None,
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

    progress = reporter(quiet)
    from ibkd_retrieval.indexing.gpu import device_there

    options = dataclasses.replace(options, device=device_there(device, progress))
    if k is not None and k < 1:
        raise UserError(f"The number of results must be at least 1, not {k}: give -k 1 or more.")
    if (queries is None) != (output is None):
        raise UserError("A batch search needs both --queries QUERIES and --output RUN.")
    if queries is not None and question is not None:
        raise UserError("Give either a question or --queries, not both.")
    if queries is not None and output is not None:
        from ibkd_retrieval.corpora.spec import open_queries

        asked = partial(open_queries, queries, progress=progress, id_field=id_field, text_field=text_field)
        _batch(index or [], asked, output, format, k or 1000, options, json, progress)
        return
    if format != "trec":
        raise UserError("--format is that of the run file: give --queries and --output too.")
    if id_field or text_field:
        raise UserError("--id-field and --text-field are those of --queries: give that too.")
    if exclude_self:
        raise UserError("--exclude-self goes with --queries: a typed question has no id.")
    _answer_all(index or [], question, k or 10, options, json, progress)


def _batch(
    given: list[Path],
    open_asked: Callable[[], QuerySet],
    output: Path,
    format: str,
    k: int,
    options: RankerOptions,
    json: bool,
    progress: Progress,
) -> None:
    import time

    from ibkd_retrieval.search.runs.run_files import require_run_target, write_run
    from ibkd_retrieval.search.runs.run_metadata import write_run_metadata

    from ..run_metadata import run_metadata

    require_run_target(output, format)
    folders = given or [index_folder(None, progress)]
    asked = open_asked()
    known: dict[str, Encoder] = {}
    from ibkd_retrieval.evaluation.fusion_weights import with_tuned_weights

    options = with_tuned_weights(folders, options, known, progress).options
    ranker = open_ranker(folders, options, known=known, progress=progress)
    began = time.perf_counter()
    run = ranker.search_batch(asked.queries, k, progress, tag=_tag(folders, options))
    seconds = time.perf_counter() - began
    write_run(run, output, "msmarco" if format == "msmarco" else "trec")
    write_run_metadata(output, run_metadata(run, folders, options, k, asked.name, seconds))
    if json:
        print_json({"run": str(output), "queries": len(run), "results": len(run.doc_ids), "seconds": seconds})
    else:
        stdout().print(f"{output}: {len(run):,} queries, {len(run.doc_ids):,} results")


def _tag(folders: list[Path], options: RankerOptions) -> str:
    """One word that says which indexes were searched, and how where it was not by their vectors alone."""
    parts = ["+".join(folder.resolve().name for folder in folders)]
    if options.query_model is not None:
        parts.append(Path(options.query_model).name)
    if options.hybrid is not None:
        parts.append(f"{options.hybrid}-{'bm25' if options.engine == 'dense' else options.engine}")
    elif options.engine != "dense":
        parts.append(options.engine)
    if options.rerank is not None:
        parts.append(Path(options.rerank).name)
    return "_".join("-".join(parts).split()) or "ibkd"


def _answer_all(
    given: list[Path], question: str | None, k: int, options: RankerOptions, json: bool, progress: Progress
) -> None:
    """Answer the question given, each line of piped input, or what is typed at a prompt."""
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.format.manifest import read_manifest

    at_prompt = question is None and sys.stdin.isatty()
    questions: Iterable[str] = [] if question is None else [question]
    if question is None and not at_prompt:
        questions = _piped_questions()
        if not questions:
            raise UserError('No question: type one after `ibkd search`, as in `ibkd search "split a list"`.')
    folders = given or [index_folder(None, progress)]
    known: dict[str, Encoder] = {}
    from ibkd_retrieval.evaluation.fusion_weights import with_tuned_weights

    options = with_tuned_weights(folders, options, known, progress).options
    asked = [
        Asked(
            folder, open_ranker([folder], options, known=known, progress=progress), read_manifest(folder).document_count
        )
        for folder in folders
    ]
    for text in questions:
        _answer(asked, text, k, json)
    if at_prompt:
        from ..display.prompt import typed_questions

        for each in asked:
            progress.say(f"{each.documents:,} documents in {each.name}; an empty line ends")
        for text in typed_questions(progress):
            try:
                _answer(asked, text, k, json)
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


def _answer(asked: list[Asked], question: str, k: int, json: bool) -> None:
    from ..display.answers import as_json, show_side_by_side

    answers = [answer(each, question, k) for each in asked]
    if json:
        from json import dumps

        shown = answers[0].as_json() if len(answers) == 1 else as_json(answers)
        print(dumps({"query": question} | shown, ensure_ascii=False))  # noqa: T201
    elif len(answers) == 1:
        show_answer(question, answers[0])
    else:
        show_side_by_side(question, answers)
