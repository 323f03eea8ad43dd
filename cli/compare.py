"""`ibkd compare`: teacher against student, in quality, time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import print_table, reporter, stdout
from .opening import open_searcher
from .options import Backend, Device, EncoderDtype, Json, Queries, Quiet, Seed

if TYPE_CHECKING:
    from rich.table import Table

    from ibkd_retrieval.evaluation.report import Comparison, Row


def compare(
    index: Annotated[
        list[Path] | None,
        typer.Option(metavar="INDEX", help="Index folder; repeat, the first is what the others are held against."),
    ] = None,
    queries: Queries = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Repeatable.", show_default="ndcg@10, mrr@10, recall@100")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and comparison.md.", show_default="none")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query.")] = 1000,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare indexes on the same queries: quality with significance, latency, throughput, size."""
    from ibkd_retrieval.corpora.resolve import open_queries, queries_for
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.evaluation.metric_names import parse_metric
    from ibkd_retrieval.evaluation.systems import Measuring, compare_systems, system_names
    from ibkd_retrieval.indexing.manifest import read_manifest

    progress = reporter(quiet)
    folders = index or []
    if len(folders) < 2:
        raise UserError("Give at least two indexes: --index TEACHER_INDEX --index STUDENT_INDEX.")
    metrics = metric or ["ndcg@10", "mrr@10", "recall@100"]
    for name in metrics:
        parse_metric(name)
    manifests = [read_manifest(folder) for folder in folders]
    if len({manifest.corpus.fingerprint for manifest in manifests}) > 1:
        raise UserError("The indexes hold different documents: compare indexes of one corpus.")
    if queries is None:
        queries = queries_for(manifests[0].corpus.name)
        progress.say(f"queries {queries} (those of the corpus; name others with --queries)")
    asked = open_queries(queries, need_judgements=True, progress=progress)
    names = system_names(
        folders, [manifest.encoder.name for manifest in manifests], [manifest.family for manifest in manifests]
    )
    known: dict[str, Encoder] = {}
    searchers = {
        name: open_searcher(folder, device=device, dtype=dtype, backend=backend, known=known)
        for name, folder in zip(names, folders, strict=True)
    }
    comparison = compare_systems(searchers, asked, metrics, Measuring(k=k, seed=seed), progress)
    if output is not None:
        write_report(comparison, asked.name, output)
        progress.say(f"{output / 'comparison.json'}, {output / 'comparison.md'}")
    if json:
        import json as encoder

        stdout().print(encoder.dumps(comparison.to_json()), markup=False, soft_wrap=True)
    else:
        print_comparison(comparison, asked.name)


def write_report(comparison: Comparison, queries: str, folder: Path) -> None:
    """Write comparison.json and comparison.md into `folder`."""
    from ibkd_retrieval.evaluation.markdown import comparison_as_markdown
    from ibkd_retrieval.files import atomic_write, write_json

    write_json(folder / "comparison.json", comparison.to_json() | {"query_set": queries})
    with atomic_write(folder / "comparison.md") as file:
        file.write(comparison_as_markdown(comparison, queries).encode("utf-8"))


def print_comparison(comparison: Comparison, queries: str) -> None:
    """Show the comparison on standard output: what each system scores, what each costs, what the difference means."""
    console = stdout()
    print_table(_quality(comparison))
    console.print()
    print_table(_cost(comparison))
    remark = (
        f"{comparison.query_count:,} queries of {queries}; kept: share of the first system's score; "
        "p: paired randomisation test against it, Holm-corrected; "
        f"{comparison.confidence:.0%} bootstrap intervals are in --json"
    )
    if comparison.environment is not None:
        remark += f"; {comparison.environment.cpu}, {comparison.environment.threads} threads"
    console.print(remark, style="dim", markup=False)


def _quality(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="quality", title_justify="left", title_style="bold")
    table.add_column("")
    for metric in comparison.metrics:
        table.add_column(metric, justify="right")
        table.add_column("kept", justify="right")
        table.add_column("p", justify="right")
    p_values = {(c.system, c.metric): c.randomisation_p_holm for c in comparison.contrasts}
    for row in comparison.rows:
        cells = [row.name]
        for metric in comparison.metrics:
            score = row.scores[metric]
            p = p_values.get((row.name, metric))
            kept = "" if p is None or score.retention is None else f"{score.retention:.1%}"
            cells += [f"{score.mean:.4f}", kept, "" if p is None else f"{p:.4f}"]
        table.add_row(*cells)
    return table


def _cost(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="cost", title_justify="left", title_style="bold")
    headings = ("", "parameters", "dims", "query p50", "p95", "encode/search p50", "documents/s", "index", "in memory")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    for row in comparison.rows:
        table.add_row(row.name, *_cost_cells(row))
    return table


def _cost_cells(row: Row) -> list[str]:
    cost = row.efficiency
    if cost is None:
        return []
    latency, throughput = cost.latency, cost.throughput
    gain = row.gains

    def times(name: str) -> str:
        factor = gain.get(name, 1.0)
        return f" ({factor:.1f}×)" if factor > 1.05 else ""

    return [
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.dims}",
        f"{latency.total.p50:.2f} ms{times('query_total_p50')}" if latency else "",
        f"{latency.total.p95:.2f} ms" if latency else "",
        f"{latency.encode.p50:.2f} / {latency.search.p50:.2f} ms" if latency else "",
        f"{throughput.documents_per_second:,.0f}{times('seconds_per_document')}" if throughput else "",
        f"{(cost.index_disk_bytes or 0) / 1e6:.1f} MB",
        f"{cost.memory_bytes_per_document or 0:,.0f} B/doc{times('memory_bytes_per_document')}",
    ]
