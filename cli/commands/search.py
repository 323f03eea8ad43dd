"""`ibkd search`: one question, a prompt, or a batch run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.options import RankerOptions

from ..display.answers import show_answers
from ..display.console import print_json, stdout
from ..options.common import Output, Queries, QueryFields
from ..options.declare import at_least, grouped, option
from ..options.ranking import Ranking, opened

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.api import Index


@dataclass(frozen=True)
class SearchOptions:
    """What is asked, where, and what becomes of the answers."""

    question: Annotated[
        tuple[str, ...],
        typer.Argument(
            metavar="QUESTION",
            help="What to look for; words are joined. Without one, a terminal shows a prompt.",
            show_default=False,
        ),
    ] = ()
    index: Annotated[
        tuple[Path, ...],
        option(
            "Index folder; repeat to see two side by side, or with --queries to search them as one.",
            metavar="INDEX",
            default="the newest in indexes/",
        ),
    ] = ()
    k: Annotated[
        int | None,
        option("Results a query.", "--k", "-k", default="10, for a run 1000", callback=at_least(1)),
    ] = None
    queries: Queries = None
    output: Annotated[
        Path | None,
        option(
            "Run file to write for --queries, or for --query-vectors alone; .gz is compressed. What made it goes to "
            "OUTPUT.metadata.yaml.",
            metavar="RUN",
        ),
    ] = None
    format: Annotated[str, option("Form of the run file.", choices=("trec", "msmarco"))] = "trec"


@grouped
def search(asked: SearchOptions, ranking: Ranking, fields: QueryFields, shown: Output) -> None:
    """Search an index: one question, a prompt, or a batch of queries.

    Lines of standard input are questions too. --queries with --output writes a run file.
    """
    batch = asked.queries is not None or (ranking.query_vectors is not None and not asked.question)
    if batch != (asked.output is not None):
        raise UserError(
            "A batch search needs both --queries QUERIES and --output RUN, or --query-vectors in its place."
        )
    if not batch:
        _answer(asked, ranking, fields, shown)
    elif asked.question:
        raise UserError("Give either a question or --queries, not both.")
    else:
        _run(asked, ranking, fields, shown)


def _run(asked: SearchOptions, ranking: RankerOptions, fields: QueryFields, shown: Output) -> None:
    """Search for all queries, and write the run."""
    from ibkd_retrieval.search.runs.run_files import require_run_target

    assert asked.output is not None
    progress = shown.progress
    written = require_run_target(asked.output, asked.format)
    queries = None if asked.queries is None else fields.queries(asked.queries, progress)
    (index,) = opened([asked.index or None], ranking, progress)
    run = index.search_batch(queries, asked.k or 1000)
    run.save(asked.output, written)
    if shown.json:
        seconds = run.origin.seconds if run.origin else 0.0
        results = {"queries": len(run), "results": len(run.doc_ids), "seconds": seconds}
        print_json({"run": str(asked.output), **results})
    else:
        stdout().print(f"{asked.output}: {len(run):,} queries, {len(run.doc_ids):,} results")
    shown.say_where_time_went()


def _answer(asked: SearchOptions, ranking: RankerOptions, fields: QueryFields, shown: Output) -> None:
    """Show the answers to the question given, to those piped in, or to those typed at a prompt."""
    if asked.format != "trec":
        raise UserError("--format is that of the run file: give --queries and --output too.")
    fields.refuse_without_queries(None)
    if ranking.exclude_self:
        raise UserError("--exclude-self goes with --queries: a typed question has no id.")
    if ranking.cluster is not None:
        raise UserError("--cluster is for many queries: give --queries and --output too.")
    progress, k = shown.progress, asked.k or 10
    at_prompt = not asked.question and sys.stdin.isatty()
    questions = [] if at_prompt else [" ".join(asked.question)] if asked.question else _piped_questions()
    if not at_prompt and not questions:
        raise UserError("No question: type one after the command, as in `ibkd search split a list`.")
    indexes = opened([[each] for each in asked.index] or [None], ranking, progress, single=True)
    for text in questions:
        show_answers([each.search(text, k) for each in indexes], shown.json)
    if at_prompt:
        for each in indexes:
            progress.say(f"{len(each):,} documents in {each.folder}; an empty line ends")
        _prompt(indexes, k, shown.json, progress)


def _prompt(indexes: list[Index], k: int, json: bool, progress: Progress) -> None:
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
    lines = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            lines.append(line.decode(sys.stdin.encoding).strip())
        except UnicodeDecodeError:
            raise UserError(
                f"Line {number} of standard input is not {sys.stdin.encoding.upper()}: save the questions in that."
            ) from None
    return [line for line in lines if line]
