"""`ibkd compare`: teacher against student, in quality, time and memory."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..display.comparison import print_comparison
from ..display.console import print_json, reporter
from ..options.common import (
    Backend,
    Device,
    EncoderDtype,
    IdField,
    Json,
    QrelsThreshold,
    Quiet,
    Seed,
    TextField,
    qrels_source,
    query_source,
)


def compare(
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INDEX[,SETTING=VALUE...]",
            help="Index folder; repeat, the others are compared with the first. Settings: name, nprobe, refine, "
            "ef-search, query-model (a student that asks this index), sweep=no. Indexes of several corpora are "
            "compared corpus by corpus and averaged.",
        ),
    ] = None,
    queries: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUERIES",
            help="Queries, as elsewhere; repeatable. Those without judgements are compared by how alike the answers "
            "are.",
            show_default="those of each corpus",
        ),
    ] = None,
    qrels: Annotated[
        list[str] | None,
        typer.Option(metavar="QRELS", help="Judgements: TREC or BEIR file; one for each --queries."),
    ] = None,
    id_field: IdField = None,
    text_field: TextField = None,
    qrels_threshold: QrelsThreshold = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Repeatable; figures show the first.", show_default="ndcg@10, mrr@10, recall@100"
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="dims=N,...|type=T,...",
            help="Compare each index cut to these lengths, and as these types too; nothing is encoded. Repeatable.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the report.", show_default="none")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=SHARE", help="Exit with 1 where a system keeps less, as in ndcg@10=0.97."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="REPORT[,system=NAME]",
            help="For --fail-under: an earlier report.json that holds the scores to keep a share of.",
            show_default="the first --index",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often every timing is taken.")] = 8,
    peak_memory: Annotated[
        bool, typer.Option(help="Load each system in a process of its own and measure the memory it takes.")
    ] = True,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query, for metrics without a cutoff.")] = 1000,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare indexes on the same queries: quality with significance, latency, throughput, size."""
    from ibkd_retrieval.errors import UserError, WorkFailed
    from ibkd_retrieval.evaluation.compare.compare import compare as compare_indexes
    from ibkd_retrieval.files import require_writable
    from ibkd_retrieval.indexing.gpu import device_there

    progress = reporter(quiet)
    device = device_there(device, progress)
    if output is not None:
        require_writable(output / "report.json")
    if not qrels and qrels_threshold is not None:
        raise UserError("--qrels-threshold is that of --qrels: give that too.")
    if not queries and (id_field or text_field):
        raise UserError("--id-field and --text-field are those of --queries: give that too.")
    asked = [query_source(each, progress, id_field=id_field, text_field=text_field) for each in queries or ()]
    found = compare_indexes(
        index or [],
        asked or None,
        metrics or (),
        qrels=[qrels_source(each, progress, qrels_threshold) for each in qrels or ()] or None,
        sweep=sweep or (),
        fail_under=fail_under or (),
        baseline=baseline,
        rounds=rounds,
        peak_memory=peak_memory,
        k=k,
        device=device,
        dtype=dtype,
        backend=backend,
        seed=seed,
        command=shlex.join(["ibkd", *sys.argv[1:]]),
        progress=progress,
    )
    if output is not None:
        found.save(output, progress)
    if json:
        print_json(found.to_json())
    else:
        print_comparison(found)
    failed = [bar.why for bar in found.bars if not bar.passed]
    if failed:
        raise WorkFailed(" ".join(failed))
