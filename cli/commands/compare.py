"""`ibkd compare`: teacher against student, in quality, time and memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibkd_retrieval.search.open import Computing

from ..display.comparison import print_comparison
from ..display.console import print_json, reporter
from ..options.common import Backend, Device, EncoderDtype, Json, Quiet, Seed
from ..report_files import save_report
from ..scoring import USUAL_METRICS

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import QuerySet
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.evaluation.compare.bars import AskedBar, Recorded
    from ibkd_retrieval.evaluation.compare.report import ComparisonReport
    from ibkd_retrieval.evaluation.compare.sweep import Variant
    from ibkd_retrieval.progress import Progress
    from ibkd_retrieval.search.searcher import Searcher

    from ..compared import PlannedCorpus, PlannedSystem


def compare(
    index: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INDEX[,SETTING=VALUE...]",
            help="Index folder; repeat, the first is what the others are held against. Settings: name, nprobe, refine, "
            "ef-search, query-model (a student that asks this index), sweep=no. Indexes of several corpora are "
            "compared corpus by corpus and averaged.",
        ),
    ] = None,
    queries: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUERIES", help="Judged queries, as elsewhere; repeatable.", show_default="those of each corpus"
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Repeatable; figures show the first.", show_default="ndcg@10, mrr@10, ...")
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
    import dataclasses

    from ibkd_retrieval.errors import UserError, WorkFailed
    from ibkd_retrieval.evaluation.compare.bars import hold, parse_bar
    from ibkd_retrieval.evaluation.compare.comparison import Resampling
    from ibkd_retrieval.evaluation.compare.sweep import parse_sweeps
    from ibkd_retrieval.evaluation.compare.systems import ComparedData, Measuring, compare_systems
    from ibkd_retrieval.evaluation.metrics.names import parse_metric
    from ibkd_retrieval.files import require_writable

    from ..compared import TOO_FEW, parse_index, plan_systems
    from ..compared_queries import data_set_names, open_judged

    progress = reporter(quiet)
    from ibkd_retrieval.indexing.gpu import device_there

    device = device_there(device, progress)
    metrics = list(dict.fromkeys(metric or USUAL_METRICS))
    for name in metrics:
        parse_metric(name)
    bars = [parse_bar(text, metrics) for text in fail_under or []]
    if baseline is not None and not bars:
        raise UserError("--baseline is what --fail-under holds the systems against: give that too, or neither.")
    if k < 1 or rounds < 1:
        raise UserError(f"--k and --rounds must be at least 1, not {min(k, rounds)}.")
    if output is not None:
        require_writable(output / "report.json")
    corpora = plan_systems([parse_index(text) for text in index or []], parse_sweeps(sweep or []))
    if len(corpora[0].systems) < 2 and baseline is None:
        raise UserError(TOO_FEW)
    pairs = open_judged(corpora, queries or [], progress)
    names = data_set_names([asked for _, asked in pairs])
    recorded = None if baseline is None else _recorded(baseline, names, pairs, bars, k)
    searchers = _open(corpora, Computing(device, dtype, backend), progress)
    found = compare_systems(
        [
            ComparedData(name, asked, searchers[corpus.fingerprint])
            for name, (corpus, asked) in zip(names, pairs, strict=True)
        ],
        metrics,
        Measuring(k=k, rounds=rounds, memory_queries=20 if peak_memory else 0, resampling=Resampling(seed=seed)),
        command=_command(),
        progress=progress,
    )
    found = dataclasses.replace(found, bars=hold(found, bars, recorded))
    if output is not None:
        save_report(found, output, progress)
    _show(found, json)
    failed = [bar.why for bar in found.bars if not bar.passed]
    if failed:
        raise WorkFailed(" ".join(failed))


def _show(comparison: ComparisonReport, json: bool) -> None:
    if json:
        print_json(comparison.to_json())
    else:
        print_comparison(comparison)


def _command() -> str:
    """What was typed."""
    import shlex

    return shlex.join(["ibkd", *sys.argv[1:]])


def _recorded(
    baseline: str,
    names: Sequence[str],
    pairs: Sequence[tuple[PlannedCorpus, QuerySet]],
    bars: Sequence[AskedBar],
    k: int,
) -> Recorded:
    """The system of an earlier report that `--baseline` names."""
    from ibkd_retrieval.evaluation.compare.bars import JudgedData, read_recorded

    from ..compared_queries import judged_ids

    path, comma, system = baseline.partition(",system=")
    data_sets = [
        JudgedData(name, corpus.fingerprint, judged_ids(asked), asked.relevance_level)
        for name, (corpus, asked) in zip(names, pairs, strict=True)
    ]
    return read_recorded(Path(path), system if comma else None, data_sets, bars, k)


def _open(corpora: Sequence[PlannedCorpus], computing: Computing, progress: Progress) -> dict[str, dict[str, Searcher]]:
    """Every system's searcher, by corpus and name; what a sweep asks for is made first.

    The indexes that were named are opened first, which finds out whether their models are at hand.
    """
    known: dict[str, Encoder] = {}
    opened = {
        (corpus.fingerprint, system.name): _searcher(system, known, computing, progress)
        for corpus in corpora
        for system in corpus.systems
        if system.variant is None
    }
    for corpus in corpora:
        for system in corpus.systems:
            if system.variant is not None:
                _make(system, system.variant, known, computing, progress)
                opened[corpus.fingerprint, system.name] = _searcher(system, known, computing, progress)
    return {
        corpus.fingerprint: {system.name: opened[corpus.fingerprint, system.name] for system in corpus.systems}
        for corpus in corpora
    }


def _searcher(system: PlannedSystem, known: dict[str, Encoder], computing: Computing, progress: Progress) -> Searcher:
    from ibkd_retrieval.indexing.config import SearchParams
    from ibkd_retrieval.search.open import open_searcher

    asked = system.asked
    params = SearchParams(asked.nprobe, asked.refine, asked.ef_search)
    searcher = open_searcher(
        system.folder,
        device=computing.device,
        dtype=computing.dtype,
        backend=computing.backend,
        search_params=params,
        query_model=asked.query_model,
        known=known,
        progress=progress,
    )
    # Settings that the index does not have are refused here, and not by the first search.
    searcher.index.effort(1, params)
    return searcher


def _make(
    system: PlannedSystem, variant: Variant, known: dict[str, Encoder], computing: Computing, progress: Progress
) -> None:
    """Make the index of a swept system, unless it is there from a run before."""
    from ibkd_retrieval.evaluation.compare.sweep import make_variant
    from ibkd_retrieval.search.open import cut_encoder

    progress.say(f"{system.asked.folder} · {system.name} → {system.folder}")
    encoder = cut_encoder(system.asked.folder, variant.dim, known, computing)
    make_variant(system.asked.folder, system.folder, variant, encoder, progress)
