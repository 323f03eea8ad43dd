"""A comparison on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import print_table, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from ibkd_retrieval.evaluation.report import ComparisonReport, DataSetReport, SystemRecord, SystemResult


def print_comparison(comparison: ComparisonReport) -> None:
    """Show the comparison on standard output: what each system scores, what each costs, what the difference means."""
    console = stdout()
    for data in comparison.data_sets:
        print_table(_quality(comparison, data))
        console.print()
        print_table(_cost(comparison, data))
        console.print(
            f"{data.queries:,} queries of {data.query_source}; kept: share of the first system's score; "
            f"p: paired randomisation test against it, Holm-corrected; {comparison.confidence:.0%} bootstrap intervals "
            f"are in --json; {comparison.environment.cpu}, {comparison.environment.threads} threads",
            style="dim",
            markup=False,
        )


def _quality(comparison: ComparisonReport, data: DataSetReport) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"quality on {data.name}", title_justify="left", title_style="bold")
    table.add_column("")
    for metric in comparison.metrics:
        for heading in (metric, "kept", "p"):
            table.add_column(heading, justify="right")
    for name, result in data.systems.items():
        cells = [name]
        for metric in comparison.metrics:
            score, contrast = result.scores[metric], result.contrasts.get(metric)
            kept = "" if contrast is None or score.retention is None else f"{score.retention:.1%}"
            cells += [f"{score.mean:.4f}", kept, "" if contrast is None else f"{contrast.randomisation_p_holm:.4f}"]
        table.add_row(*cells)
    return table


def _cost(comparison: ComparisonReport, data: DataSetReport) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"cost on {data.name}", title_justify="left", title_style="bold")
    headings = ("", "parameters", "dims", "query p50", "p95", "encode/search p50", "documents/s", "index", "in memory")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    for system in comparison.systems:
        table.add_row(system.name, *_cost_cells(system, data.systems[system.name]))
    return table


def _cost_cells(system: SystemRecord, result: SystemResult) -> list[str]:
    latency, rate, sizes = result.latency_ms, system.throughput, result.sizes

    def times(name: str) -> str:
        factor = result.gains.get(name, 1.0)
        return f" ({factor:.1f}×)" if factor > 1.05 else ""

    return [
        f"{system.encoder.parameters / 1e6:.1f} M",
        f"{system.encoder.dims}",
        f"{latency.total.p50:.2f} ms{times('query_total_p50')}",
        f"{latency.total.p95:.2f} ms",
        f"{latency.encode.p50:.2f} / {latency.search.p50:.2f} ms",
        f"{rate.documents_per_second:,.0f}{times('seconds_per_document')}" if rate else "",
        f"{sizes.index_disk_bytes / 1e6:.1f} MB",
        f"{sizes.memory_bytes_per_document:,.0f} B/doc{times('memory_bytes_per_document')}",
    ]
