"""A comparison as Markdown, to paste into a design document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ibkd_retrieval.evaluation.old_report import Comparison, Row


def comparison_as_markdown(comparison: Comparison, queries: str) -> str:
    """Two tables, quality and cost, and what was measured on what."""
    p_values = {(c.system, c.metric): c.randomisation_p_holm for c in comparison.contrasts}
    quality_heads = ["system"]
    for metric in comparison.metrics:
        quality_heads += [metric, "kept", "p"]
    quality = []
    for row in comparison.rows:
        cells = [row.name]
        for metric in comparison.metrics:
            score, p = row.scores[metric], p_values.get((row.name, metric))
            kept = "" if p is None or score.retention is None else f"{score.retention:.1%}"
            cells += [f"{score.mean:.4f}", kept, "" if p is None else f"{p:.4f}"]
        quality.append(cells)
    cost_heads = [
        "system",
        "parameters",
        "dims",
        "query p50 (ms)",
        "query p95 (ms)",
        "documents/s",
        "index on disk (MB)",
        "in memory (bytes/document)",
    ]
    lines = [
        *_table(quality_heads, quality),
        "",
        *_table(cost_heads, [_cost_cells(row) for row in comparison.rows]),
        "",
        f"{comparison.query_count:,} queries of {queries}. *kept*: share of the first system's score; *p*: paired "
        "randomisation test against it, Holm-corrected.",
    ]
    environment = comparison.environment
    if environment is not None:
        lines.append(f"Timed on {environment.cpu}, {environment.threads} threads, systems in turn.")
    return "\n".join(lines) + "\n"


def _cost_cells(row: Row) -> list[str]:
    cost = row.efficiency
    if cost is None:
        return [row.name, *[""] * 7]
    latency, throughput = cost.latency, cost.throughput
    return [
        row.name,
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.dims}",
        f"{latency.total.p50:.2f}" if latency else "",
        f"{latency.total.p95:.2f}" if latency else "",
        f"{throughput.documents_per_second:,.0f}" if throughput else "",
        f"{(cost.index_disk_bytes or 0) / 1e6:.1f}",
        f"{cost.memory_bytes_per_document or 0:,.0f}",
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
