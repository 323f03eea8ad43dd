"""`ibkd eval`: an index or a run, against judgements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import print_table, reporter, stdout
from .opening import index_folder, open_searcher
from .options import Device, Dtype, Json, Model, Nprobe, Pooling, Queries, Quiet, Refine

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.metrics import Evaluation
    from ibkd_retrieval.evaluation.significance import WinTieLoss


def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(help="mrr@10, ndcg@10, recall@1000, ...; repeatable.", show_default="ndcg@10, mrr@10, recall@100"),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", help="Index folder to search.", show_default="the newest in indexes/"),
    ] = None,
    queries: Queries = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="Score this run instead of searching.")] = None,
    qrels: Annotated[
        str | None, typer.Option(metavar="QRELS", help="Judgements: TREC or BEIR file, or any QUERIES that have them.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Another run to test the difference against.")
    ] = None,
    relevance_level: Annotated[
        int | None, typer.Option(help="Lowest grade that counts as relevant.", show_default="the data set's")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query when searching.")] = 1000,
    nprobe: Nprobe = None,
    refine: Refine = None,
    model: Model = None,
    pooling: Pooling = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score an index, or a run file, by metrics of your choice."""
    from ibkd_retrieval.corpora.resolve import open_qrels, open_queries, queries_for
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.evaluation.metric_names import parse_metric
    from ibkd_retrieval.evaluation.metrics import evaluate as score
    from ibkd_retrieval.search.runs import read_run

    progress = reporter(quiet)
    metrics = metric or ["ndcg@10", "mrr@10", "recall@100"]
    for name in metrics:
        parse_metric(name)
    level = 1
    if run is not None:
        if qrels is None and queries is None:
            raise UserError("Judgements are needed to score a run: give --qrels QRELS.")
        ranked = read_run(run)
        against = qrels or str(queries)
        if Path(against).is_file():
            judgements = open_qrels(against)
        else:
            asked = open_queries(against, need_judgements=True, progress=progress)
            judgements, level = asked.judgements, asked.relevance_level
        scored = str(run)
    else:
        folder = index_folder(index, progress)
        if queries is None:
            from ibkd_retrieval.indexing.manifest import read_manifest

            queries = queries_for(read_manifest(folder).corpus.name)
            progress.say(f"queries {queries} (those of the index's corpus; name others with --queries)")
        asked = open_queries(queries, need_judgements=qrels is None, progress=progress)
        judgements = open_qrels(qrels) if qrels is not None else asked.judgements
        level = asked.relevance_level
        searcher = open_searcher(
            folder, model=model, device=device, dtype=dtype, pooling=pooling, nprobe=nprobe, refine=refine
        )
        ranked = searcher.search_batch(asked.queries, k, progress)
        against, scored = queries, str(folder)
    level = relevance_level if relevance_level is not None else level
    evaluation = score(ranked, judgements, metrics, level)
    compared = score(read_run(baseline), judgements, metrics, level) if baseline is not None else None
    if json:
        _print_json(evaluation, compared, scored, against, baseline)
    else:
        _print_table(evaluation, compared, scored, against, baseline)


def _contrasts(evaluation: Evaluation, baseline: Evaluation) -> dict[str, tuple[float, float, WinTieLoss]]:
    """Difference, p of the paired randomisation test, and wins, by metric."""
    from ibkd_retrieval.evaluation.significance import randomisation_test, win_tie_loss

    out = {}
    for name in evaluation.scores:
        ours, theirs = evaluation.per_query[name], baseline.per_query[name]
        test = randomisation_test(ours, theirs)
        out[name] = (test.difference, test.p_value, win_tie_loss(ours, theirs))
    return out


def _print_json(
    evaluation: Evaluation, compared: Evaluation | None, scored: str, against: str, baseline: Path | None
) -> None:
    import json

    shown: dict[str, object] = dict(evaluation.scores) | {
        "scored": scored,
        "judgements": against,
        "queries": len(evaluation.query_ids),
        "missing_queries": evaluation.missing,
        "unjudged_queries": evaluation.extra,
        "relevance_level": evaluation.relevance_level,
    }
    if compared is not None:
        shown["baseline"] = {
            "run": str(baseline),
            **compared.scores,
            "differences": {
                name: {"difference": difference, "p": p, **counts._asdict()}
                for name, (difference, p, counts) in _contrasts(evaluation, compared).items()
            },
        }
    stdout().print(json.dumps(shown), markup=False, soft_wrap=True)


def _print_table(
    evaluation: Evaluation, compared: Evaluation | None, scored: str, against: str, baseline: Path | None
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("score", justify="right")
    contrasts = _contrasts(evaluation, compared) if compared is not None else {}
    if compared is not None:
        for heading in ("baseline", "difference", "p", "win/tie/loss"):
            table.add_column(heading, justify="right")
    for name, value in evaluation.scores.items():
        cells = [name, f"{value:.4f}"]
        if compared is not None:
            difference, p, counts = contrasts[name]
            cells += [
                f"{compared.scores[name]:.4f}",
                f"{difference:+.4f}",
                f"{p:.4f}",
                f"{counts.wins}/{counts.ties}/{counts.losses}",
            ]
        table.add_row(*cells)
    print_table(table)
    remarks = [f"{len(evaluation.query_ids):,} judged queries of {against}"]
    if evaluation.missing:
        remarks.append(f"{evaluation.missing:,} of them missing from the run, scored 0")
    if evaluation.extra:
        remarks.append(f"{evaluation.extra:,} queries without judgements left out")
    if compared is not None:
        remarks.append(f"p: paired randomisation test against {baseline}")
    stdout().print(f"{scored}: {'; '.join(remarks)}", style="dim", markup=False)
