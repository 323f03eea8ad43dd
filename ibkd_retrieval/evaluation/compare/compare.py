"""`compare`: the public function that compares indexes on the same queries and returns a report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.corpora.records import Judgement, QuerySet
from ibkd_retrieval.corpora.spec import Source
from ibkd_retrieval.encoders.model_folder import STUDENT_RECORD
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT
from ibkd_retrieval.evaluation.compare.bars import JudgedData, QualityBar, Recorded, hold, parse_bar, read_recorded
from ibkd_retrieval.evaluation.compare.comparison import Resampling
from ibkd_retrieval.evaluation.compare.measuring import Measuring
from ibkd_retrieval.evaluation.compare.plan import (
    TOO_FEW,
    ComparedIndex,
    PlannedCorpus,
    PlannedSystem,
    parse_index,
    plan_systems,
)
from ibkd_retrieval.evaluation.compare.queries import data_set_names, judged_ids, open_query_sets
from ibkd_retrieval.evaluation.compare.rankings import ComparedData
from ibkd_retrieval.evaluation.compare.report import ComparisonReport
from ibkd_retrieval.evaluation.compare.sweep import Variant, make_variant, parse_sweeps
from ibkd_retrieval.evaluation.compare.systems import compare_systems
from ibkd_retrieval.evaluation.evaluate import USUAL_METRICS
from ibkd_retrieval.evaluation.evaluate_index import leaves_out_own
from ibkd_retrieval.evaluation.judge import Model, open_judge
from ibkd_retrieval.evaluation.metric_names import parse_metric
from ibkd_retrieval.evaluation.report.sentence import headline, next_steps
from ibkd_retrieval.indexing.faiss_binding import device_there
from ibkd_retrieval.progress import Progress, as_progress
from ibkd_retrieval.search.open import Computing, cut_encoder, open_searcher, say_loading

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.search.searcher import Searcher


def compare(
    index: Mapping[str, Any] | Sequence[Any],
    queries: Source | Sequence[str] | None = None,
    metrics: str | Sequence[str] = (),
    *,
    qrels: Source | Sequence[str] | None = None,
    sweep: Sequence[str] = (),
    fail_under: Mapping[str, float] | Sequence[str] = (),
    baseline: str | os.PathLike[str] | None = None,
    rounds: int = 8,
    peak_memory: bool = True,
    judge: Model | None = None,
    k: int = 1000,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    resampling: Resampling | None = None,
    seed: int = 0,
    command: str = "ibkd_retrieval.compare(...)",
    progress: bool | Progress = False,
) -> ComparisonReport:
    """Compare indexes on the same queries: quality with significance, latency, throughput, memory.

    Without judgements, systems are compared by `overlap@10` with the first system and by rank-biased overlap (`rbo`).

    Args:
        index: two or more indexes. The first is the reference. Give a dict from names to folders, opened indexes or
            `ComparedIndex` records, or a list of these. Several corpora are compared one by one and averaged. Indexes
            with the same name form one system.
        queries: a data set's name, a path, or queries in any form that `open_queries` accepts. For several corpora,
            give a list of names. Put your own questions into a dict, or pass them through `open_queries`. "documents"
            takes titles or first sentences of the documents as questions. None takes the queries of each corpus.
        metrics: one or more metric names. Figures and sentences use the first.
        qrels: judgements that replace those of the queries.
        sweep: "dims=384,256" and "type=flat,ivf-pq" add variants of each index with these dims and index types.
        fail_under: required retention by metric, such as {"ndcg@10": 0.97}. The report names systems below it.
        baseline: an earlier report.json, for `fail_under`: "REPORT" or "REPORT,system=NAME".
        rounds: number of timing rounds.
        peak_memory: whether to measure memory. Each system is loaded in its own process.
        judge: a model that grades the first ten results of every system: a cross-encoder, or an encoder that is
            stronger than those compared. Its figures are an opinion, and the report says so.
        k: results per query for metrics without a cutoff.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: number format of the encoders.
        backend: backend of the encoders.
        resampling: settings of intervals and tests.
        seed: random seed, unless `resampling` is given.
        command: the command line that the report shows.
        progress: receives progress reports. True shows bars.

    Returns:
        The report. `report.save("folder")` writes it as a page, Markdown, a picture and JSON.

    Raises:
        UserError: an index, a metric, the queries or an option is wrong.
        WorkFailed: the process that measures memory ended without its figures.

    Example:
        >>> report = compare({"teacher": "indexes/t", "student": "indexes/s"}, "scifact")  # doctest: +SKIP
        >>> report.save("report")  # doctest: +SKIP
    """
    progress = as_progress(progress)
    names = list(dict.fromkeys(_listed(metrics) or USUAL_METRICS))
    for name in names:
        parse_metric(name)
    if isinstance(fail_under, Mapping):
        fail_under = [f"{name}={share}" for name, share in fail_under.items()]
    bars = [parse_bar(text, names) for text in fail_under]
    if baseline is not None and not bars:
        raise UserError("`baseline` is what `fail_under` holds the systems against: give that too, or neither.")
    if k < 1 or rounds < 1:
        raise UserError(f"`k` and `rounds` must be at least 1, not {min(k, rounds)}.")
    known: dict[str, Encoder] = {}
    device = device_there(device, progress)
    corpora = plan_systems(_indexes(index), parse_sweeps(sweep))
    if len(corpora[0].systems) < 2 and baseline is None:
        raise UserError(TOO_FEW)
    named = {each.folder: each.manifest for corpus in corpora for each in corpus.systems if each.variant is None}
    say_loading(named, progress)
    pairs = open_query_sets(corpora, _listed(queries), _listed(qrels), progress)
    if not pairs[0][1].judgements:
        if metrics or bars:
            raise UserError(
                f"{pairs[0][1].name} has no judgements, which `metrics` and `fail_under` need: give `qrels`, or leave "
                "them out to compare by how alike the answers are."
            )
        names = list(AGREEMENT)
        progress.say(f"{pairs[0][1].name} has no judgements: the systems are compared by how alike their answers are")
    short = data_set_names([asked for _, asked in pairs])
    recorded = None if baseline is None else _recorded(os.fspath(baseline), short, pairs, bars, k)
    grader = None if judge is None else open_judge(judge, device)
    searchers = _open(corpora, Computing(device, dtype, backend), known, progress)
    for _, asked in pairs:
        leaves_out_own(asked, progress)
    found = compare_systems(
        [
            ComparedData(name, asked, searchers[corpus.fingerprint])
            for name, (corpus, asked) in zip(short, pairs, strict=True)
        ],
        names,
        Measuring(
            k=k,
            rounds=rounds,
            memory_queries=20 if peak_memory else 0,
            resampling=resampling or Resampling(seed=seed),
        ),
        judge=grader,
        command=command,
        progress=progress,
    )
    return dataclasses.replace(found, bars=hold(found, bars, recorded), next_steps=_next_steps(found))


def _next_steps(report: ComparisonReport) -> tuple[str, ...]:
    """What to try for the student of the summary, whose folder says how it was made."""
    name = headline(report)
    student = next(each for each in report.systems if each.name == name)
    path = Path(student.encoder.name) / STUDENT_RECORD
    if not report.is_judged or name == report.baseline or not path.is_file():
        return ()
    try:
        return next_steps(json.loads(path.read_bytes()), report.averages[name][report.metrics[0]].retention)
    except (OSError, ValueError, KeyError, TypeError):  # The record is damaged. The comparison is not.
        return ()


def _listed(given: Any) -> list[Any]:
    """What was given as a list: one source, or a list of names, paths, query sets and lists of judgements."""
    if given is None:
        return []
    several = isinstance(given, list | tuple) and not isinstance(given, Judgement) and all(map(_is_source, given))
    return list(given) if several else [given]


def _is_source(given: Any) -> bool:
    if isinstance(given, list | tuple):
        return bool(given) and isinstance(given[0], Judgement)
    return isinstance(given, str | os.PathLike | QuerySet)


def _indexes(given: Mapping[str, Any] | Sequence[Any]) -> list[ComparedIndex]:
    named: Any = given.items() if isinstance(given, Mapping) else [(None, each) for each in given]
    found = []
    for name, each in named:
        if isinstance(each, str):
            each = parse_index(each)
        elif not isinstance(each, ComparedIndex):
            each = ComparedIndex(Path(getattr(each, "folder", each)))
        found.append(each if name is None else dataclasses.replace(each, name=name))
    return found


def _recorded(
    baseline: str,
    names: Sequence[str],
    pairs: Sequence[tuple[PlannedCorpus, QuerySet]],
    bars: Sequence[QualityBar],
    k: int,
) -> Recorded:
    """The system of an earlier report that `baseline` names."""
    path, comma, system = baseline.partition(",system=")
    data_sets = [
        JudgedData(name, corpus.fingerprint, judged_ids(asked), asked.relevance_level)
        for name, (corpus, asked) in zip(names, pairs, strict=True)
    ]
    return read_recorded(Path(path), system if comma else None, data_sets, bars, k)


def _open(
    corpora: Sequence[PlannedCorpus], computing: Computing, known: dict[str, Encoder], progress: Progress
) -> dict[str, dict[str, Searcher]]:
    """Every system's searcher, by corpus and name; what a sweep asks for is made first.

    The indexes that were named are opened first, which finds out whether their models are at hand.
    """
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
    asked = system.source
    searcher = open_searcher(
        system.folder,
        device=computing.device,
        dtype=computing.dtype,
        backend=computing.backend,
        search_params=asked.search_params,
        query_model=asked.query_model,
        known=known,
        progress=progress,
    )
    # Settings that the index does not have are refused here, and not by the first search.
    searcher.index.search_params(1, asked.search_params)
    return searcher


def _make(
    system: PlannedSystem, variant: Variant, known: dict[str, Encoder], computing: Computing, progress: Progress
) -> None:
    """Make the index of a swept system, unless it is there from a run before."""
    progress.say(f"{system.source.folder} · {system.name} → {system.folder}")
    encoder = cut_encoder(system.source.folder, variant.dim, known, computing)
    make_variant(system.source.folder, system.folder, variant, encoder, progress)
