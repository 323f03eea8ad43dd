"""A comparison as Markdown, to paste into a design document, and the files of its report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ibkd_retrieval.evaluation.report import ComparisonReport, DataSetReport
from ibkd_retrieval.files import atomic_write, write_json


def write_report(comparison: ComparisonReport, folder: Path) -> list[Path]:
    """Write report.json and report.md into `folder`, each whole or not at all."""
    data, text = folder / "report.json", folder / "report.md"
    write_json(data, comparison.to_json())
    with atomic_write(text) as file:
        file.write(comparison_as_markdown(comparison).encode("utf-8"))
    return [data, text]


def summary_sentence(comparison: ComparisonReport) -> str:
    """What each further system keeps of the first metric."""
    metric = comparison.metrics[0]
    kept = [
        f"{system.name} keeps {retention:.1%}"
        for system in comparison.systems[1:]
        if (retention := comparison.averages[system.name][metric].retention) is not None
    ]
    return f"Of the {metric} of {comparison.baseline}, {', '.join(kept)}." if kept else ""


def comparison_as_markdown(comparison: ComparisonReport) -> str:
    """Two tables for each data set, quality and cost, and what was measured on what."""
    lines = [summary_sentence(comparison), ""]
    for data in comparison.data_sets:
        lines += [f"## {data.name}", "", *_quality(comparison, data), "", *_costs(comparison, data), ""]
        lines += [
            f"{data.queries:,} queries of {data.query_source}. *kept*: share of the first system's score; *p*: paired "
            "randomisation test against it, Holm-corrected.",
            "",
        ]
    environment = comparison.environment
    lines.append(f"Timed on {environment.cpu}, {environment.threads} threads, systems in turn.")
    return "\n".join(lines) + "\n"


def _quality(comparison: ComparisonReport, data: DataSetReport) -> list[str]:
    heads = ["system"]
    for metric in comparison.metrics:
        heads += [metric, "kept", "p"]
    rows = []
    for name, result in data.systems.items():
        cells = [name]
        for metric in comparison.metrics:
            score, contrast = result.scores[metric], result.contrasts.get(metric)
            kept = "" if contrast is None or score.retention is None else f"{score.retention:.1%}"
            cells += [f"{score.mean:.4f}", kept, "" if contrast is None else f"{contrast.randomisation_p_holm:.4f}"]
        rows.append(cells)
    return _table(heads, rows)


def _costs(comparison: ComparisonReport, data: DataSetReport) -> list[str]:
    heads = [
        "system",
        "parameters",
        "dims",
        "query p50 (ms)",
        "query p95 (ms)",
        "documents/s",
        "index on disk (MB)",
        "in memory (bytes/document)",
    ]
    rows = []
    for system in comparison.systems:
        result, rate = data.systems[system.name], system.throughput
        rows.append(
            [
                system.name,
                f"{system.encoder.parameters / 1e6:.1f} M",
                f"{system.encoder.dims}",
                f"{result.latency_ms.total.p50:.2f}",
                f"{result.latency_ms.total.p95:.2f}",
                f"{rate.documents_per_second:,.0f}" if rate else "",
                f"{result.sizes.index_disk_bytes / 1e6:.1f}",
                f"{result.sizes.memory_bytes_per_document:,.0f}",
            ]
        )
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]
