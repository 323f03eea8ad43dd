"""`ibkd eval`: an index, runs or a suite of data sets, against judgements."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ibkd_retrieval.search.options import RankerOptions

from ..display.console import reporter, write_text
from ..options.common import (
    Backend,
    Device,
    EfSearch,
    EncoderDtype,
    Engine,
    ExcludeSelf,
    Filter,
    Hybrid,
    Json,
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
    Seed,
    Tune,
    Weight,
    given_options,
)
from ..options.ranking import ranking_options
from ..scoring import USUAL_K, Scored, Scoring, score_files, score_index

FORMATS = ("table", "json", "csv", "latex")
_OF_STS = frozenset(
    {
        "task",
        "data",
        "model",
        "pooling",
        "device",
        "dtype",
        "backend",
        "resamples",
        "seed",
        "format",
        "output",
        "json",
        "quiet",
    }
)


def evaluate(
    context: typer.Context,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="mrr@10, ndcg@10, recall@1000, ...; repeatable.",
            show_default="the data set's own, ndcg@10, mrr@10, recall@100",
        ),
    ] = None,
    index: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="INDEX",
            help="Index folder to search; repeat for parts of one corpus.",
            show_default="the newest in indexes/",
        ),
    ] = None,
    queries: Queries = None,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Score this run instead of searching; repeatable.")
    ] = None,
    qrels: Annotated[
        str | None, typer.Option(metavar="QRELS", help="Judgements: TREC or BEIR file, or any QUERIES that have them.")
    ] = None,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run to test the differences against; repeatable."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="beir, msmarco, or a folder of BEIR folders: index and score each of them."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where local copies of the suite's data sets are.")
    ] = None,
    type: Annotated[str, typer.Option(help="Of the suite's indexes: flat, ivf-pq, ...")] = "flat",
    relevance_level: Annotated[
        int | None, typer.Option(help="Lowest grade that counts as relevant.", show_default="the data set's")
    ] = None,
    task: Annotated[
        str, typer.Option(help="retrieval, or sts: how a model's cosines order sentence pairs.")
    ] = "retrieval",
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS", help="For --task sts: scored sentence pairs, file or SentEval folder; repeatable."
        ),
    ] = None,
    per_query: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every query's values: .tsv or .jsonl.")
    ] = None,
    format: Annotated[str, typer.Option(help="table, json, csv or latex.")] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the result, in --format; for a suite the folder of its indexes and its suite.json.",
            show_default="standard output; indexes/",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query when searching.")] = USUAL_K,
    resamples: Annotated[int, typer.Option(help="Of the queries, behind each bootstrap interval.")] = 5000,
    seed: Seed = 0,
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
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Where the index's own encoder is; for a suite, the encoder.",
            show_default="where it was when indexing; the newest student in models/",
        ),
    ] = None,
    query_model: QueryModel = None,
    pooling: Pooling = None,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score an index, run files, or a suite of data sets, by metrics of your choice."""
    options = ranking_options(locals())  # First: the arguments are all the names there are.
    from ibkd_retrieval.errors import UserError, WorkFailed
    from ibkd_retrieval.evaluation.metrics.names import parse_metric
    from ibkd_retrieval.evaluation.score_files import check_per_query_name, write_per_query
    from ibkd_retrieval.files import require_writable

    progress = reporter(quiet)
    if format not in FORMATS:
        raise UserError(f"Unknown format `{format}`: use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if json and format not in ("json", "table"):
        raise UserError(f"--json and --format {format} contradict each other: give one of them.")
    if resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {resamples}.")
    if relevance_level is not None and relevance_level < 1:
        raise UserError(f"--relevance-level must be at least 1, not {relevance_level}: grade 0 is not relevant.")
    form = "json" if json else format
    if per_query is not None:
        check_per_query_name(per_query)
    for file in (per_query, output if suite is None else None):
        if file is not None:
            require_writable(file)
    for name in metric or ():
        parse_metric(name)
    if task not in ("retrieval", "sts"):
        raise UserError(f"Unknown task `{task}`: use retrieval or sts.")
    if data and task != "sts":
        raise UserError("--data names the sentence pairs of --task sts: give that too.")
    given = given_options(context)
    if not run:
        from ibkd_retrieval.indexing.gpu import device_there

        device = device_there(device, progress)
        options = dataclasses.replace(options, device=device)
    if task == "sts":
        from .similarity import evaluate_similarity

        _refuse("--task sts", given - _OF_STS)
        evaluate_similarity(
            model,
            data or [],
            device=device,
            dtype=dtype,
            backend=backend,
            pooling=pooling,
            samples=resamples,
            seed=seed,
            form=form,
            output=output,
            progress=progress,
        )
        return
    scoring = Scoring(tuple(metric or ()), tuple(baseline or ()), relevance_level, resamples, seed)
    if suite is not None:
        if run or index or queries or qrels or baseline or per_query is not None:
            raise UserError(
                "--suite brings its own queries: leave out --run, --index, --queries, --qrels, --baseline and "
                "--per-query."
            )
        _refuse("--suite", given & {"resamples", "seed"})
        if tune is not None:
            raise UserError("--tune finds weights for one data set, not for a suite: give --weight instead.")
        from ..display.scores import show_suite
        from .suite import evaluate_suite

        result = evaluate_suite(suite, data_dir, options, scoring, type, output, k, progress)
        show_suite(result, form)
        if result.failures:
            told = " ".join(f"{name}: {why}" for name, why in result.failures.items())
            raise WorkFailed(f"{len(result.failures)} of {len(result.groups)} data sets are not scored. {told}")
        return
    if data_dir is not None:
        raise UserError("--data-dir says where the data sets of --suite are: give --suite too.")
    if type != "flat":
        raise UserError(f"--type {type} is that of the indexes --suite makes: give --suite too.")
    if run:
        if index:
            raise UserError("Give either --run or --index, not both: score them one after the other.")
        _refuse("--run", given & {"k", "device", "dtype", "backend"})
        if options != RankerOptions():
            raise UserError("--run is scored as it is: leave out the options of searching, or give --index instead.")
        scored = score_files(run, qrels, queries, scoring, progress)
    else:
        scored = score_index(index or [], options, queries, qrels, k, scoring, progress)
    if per_query is not None:
        write_per_query(scored.board, per_query)
    _show(scored, form, output)


def _refuse(what: str, wrong: frozenset[str]) -> None:
    """Refuse options that were given and that are not looked at."""
    from ibkd_retrieval.errors import UserError, option_named

    if wrong:
        named = ", ".join(sorted(map(option_named, wrong)))
        raise UserError(f"{named} {'say' if len(wrong) > 1 else 'says'} nothing to {what}: leave out.")


def _show(scored: Scored, form: str, output: Path | None) -> None:
    from ..display.scores import print_scoreboard, scoreboard_as_text

    board, against = scored.board, scored.against
    if form == "table" and output is None:
        print_scoreboard(board, against)
        return
    if form == "table":
        text = scoreboard_as_text(board, against)
    elif form == "json":
        from json import dumps

        text = dumps(scored.as_json()) + "\n"
    else:
        from ibkd_retrieval.evaluation.score_files import as_csv, as_latex

        text = as_csv(board) if form == "csv" else as_latex(board)
    write_text(text, output)
