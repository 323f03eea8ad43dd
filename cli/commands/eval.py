"""`ibkd eval`: an index, runs or a suite of data sets, against judgements."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibkd_retrieval.search.options import RankerOptions

from ..display.console import reporter
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
    Nprobe,
    Pooling,
    QrelsThreshold,
    Queries,
    QueryModel,
    Quiet,
    Recall,
    Refine,
    Rerank,
    RerankDepth,
    RerankMaxLength,
    Seed,
    TextField,
    Tune,
    Weight,
    given_options,
    qrels_source,
    query_source,
)
from ..options.ranking import ranking_options

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress

FORMATS = ("table", "json", "csv", "latex")
_OF_STS = frozenset(
    {
        *("task", "data", "model", "pooling", "device", "dtype", "backend"),
        *("resamples", "seed", "format", "output", "json", "quiet"),
    }
)


def evaluate(
    context: typer.Context,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
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
    id_field: IdField = None,
    text_field: TextField = None,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Score this run instead of searching; repeatable.")
    ] = None,
    qrels: Annotated[
        str | None, typer.Option(metavar="QRELS", help="Judgements: TREC or BEIR file, or any QUERIES that have them.")
    ] = None,
    qrels_threshold: QrelsThreshold = None,
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
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query when searching.")] = 1000,
    resamples: Annotated[int, typer.Option(help="Of the queries, behind each bootstrap interval.")] = 5000,
    seed: Seed = 0,
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
    from ibkd_retrieval.evaluation.evaluate import USUAL_METRICS, check_per_query_name, usual_metrics, write_per_query
    from ibkd_retrieval.evaluation.evaluate import evaluate as evaluate_runs
    from ibkd_retrieval.evaluation.evaluate_index import evaluate_index
    from ibkd_retrieval.evaluation.metric_names import parse_metric
    from ibkd_retrieval.files import require_writable
    from ibkd_retrieval.indexing.gpu import device_there

    from ..display.scores import show_scores

    progress = reporter(quiet)
    given = given_options(context)
    _check(given, task, format, json, resamples, relevance_level)
    form = "json" if json else format
    if per_query is not None:
        check_per_query_name(per_query)
    for file in (per_query, output if suite is None else None):
        if file is not None:
            require_writable(file)
    for name in metrics or ():
        parse_metric(name)
    if not run:
        options = dataclasses.replace(options, device=device_there(device, progress))
    if task == "sts":
        _refuse("--task sts", given - _OF_STS)
        _evaluate_sts(options, data or [], resamples, seed, form, output, progress)
        return
    if suite is not None:
        from ibkd_retrieval.evaluation.suite import evaluate_suite

        from ..display.scores import show_suite

        _check_suite(given)
        result = evaluate_suite(
            suite,
            options,
            data_dir=data_dir,
            metrics=metrics or (),
            type=type,
            output=output,
            k=k,
            relevance_level=relevance_level,
            progress=progress,
        )
        show_suite(result, form)
        if result.failures:
            told = " ".join(f"{name}: {why}" for name, why in result.failures.items())
            raise WorkFailed(f"{len(result.failures)} of {len(result.groups)} data sets are not scored. {told}")
        return
    if data_dir is not None:
        raise UserError("--data-dir says where the data sets of --suite are: give --suite too.")
    if type != "flat":
        raise UserError(f"--type {type} is that of the indexes --suite makes: give --suite too.")
    shared: dict[str, Any] = {
        "baseline": baseline or [],
        "relevance_level": relevance_level,
        "resamples": resamples,
        "seed": seed,
        "progress": progress,
    }
    if qrels is None and qrels_threshold is not None:
        raise UserError("--qrels-threshold is that of --qrels: give that too.")
    judged = qrels_source(qrels, progress, qrels_threshold) if qrels is not None else None
    if run:
        if index:
            raise UserError("Give either --run or --index, not both: score them one after the other.")
        _refuse("--run", given & {"k", "device", "dtype", "backend", "id_field", "text_field"})
        if options != RankerOptions():
            raise UserError("--run is scored as it is: leave out the options of searching, or give --index instead.")
        against = judged or queries
        names = metrics or (usual_metrics(queries or qrels or "") if against else USUAL_METRICS)
        scores = evaluate_runs(run, against, names, queries=queries, **shared)
    else:
        if queries is None and given & {"id_field", "text_field"}:
            raise UserError("--id-field and --text-field are those of --queries: give that too.")
        asked = query_source(queries, progress, id_field=id_field, text_field=text_field) if queries else None
        scores = evaluate_index(index or [], options, asked, qrels=judged, metrics=metrics or (), k=k, **shared)
    if per_query is not None:
        write_per_query(scores, per_query)
    show_scores(scores, form, output)


def _check(
    given: frozenset[str], task: str, format: str, json: bool, resamples: int, relevance_level: int | None
) -> None:
    """Refuse what no task of the command takes."""
    from ibkd_retrieval.errors import UserError

    if format not in FORMATS:
        raise UserError(f"Unknown format `{format}`: use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if json and format not in ("json", "table"):
        raise UserError(f"--json and --format {format} contradict each other: give one of them.")
    if resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {resamples}.")
    if relevance_level is not None and relevance_level < 1:
        raise UserError(f"--relevance-level must be at least 1, not {relevance_level}: grade 0 is not relevant.")
    if task not in ("retrieval", "sts"):
        raise UserError(f"Unknown task `{task}`: use retrieval or sts.")
    if "data" in given and task != "sts":
        raise UserError("--data names the sentence pairs of --task sts: give that too.")


def _check_suite(given: frozenset[str]) -> None:
    """Refuse what a suite has no use for."""
    from ibkd_retrieval.errors import UserError

    if given & {"run", "index", "queries", "qrels", "baseline", "per_query"}:
        raise UserError(
            "--suite brings its own queries: leave out --run, --index, --queries, --qrels, --baseline and --per-query."
        )
    _refuse("--suite", given & {"resamples", "seed", "id_field", "text_field", "qrels_threshold"})
    if "tune" in given:
        raise UserError("--tune finds weights for one data set, not for a suite: give --weight instead.")


def _evaluate_sts(
    options: RankerOptions,
    data: list[Path],
    resamples: int,
    seed: int,
    form: str,
    output: Path | None,
    progress: Progress,
) -> None:
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.evaluation.sts import evaluate_sts

    from ..display.scores import show_sts

    if not data:
        raise UserError("--task sts needs sentence pairs: name a file or a SentEval folder with --data; repeatable.")
    found = evaluate_sts(
        options.model,
        data,
        device=options.device,
        dtype=options.dtype,
        backend=options.backend,
        pooling=options.pooling,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    show_sts(found, form, output)


def _refuse(what: str, wrong: frozenset[str]) -> None:
    """Refuse options that were given and have no effect here."""
    from ibkd_retrieval.errors import UserError

    if wrong:
        raise UserError(f"{', '.join(f'`{name}`' for name in sorted(wrong))} cannot be used with {what}: leave out.")
