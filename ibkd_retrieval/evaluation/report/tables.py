"""The tables of a report as text, to be set in HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import PurePath
from typing import NamedTuple

from ibkd_retrieval.evaluation.compare.records import Interval, Percentiles
from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport
from ibkd_retrieval.evaluation.formatting import (
    UNKNOWN,
    count,
    factor,
    html_table,
    interval,
    metric_title,
    p_value,
    plain,
    score,
    share,
    signed,
    size,
    slashed,
)
from ibkd_retrieval.evaluation.judge import OPINION
from ibkd_retrieval.evaluation.report.glance import Glance, glances, significant
from ibkd_retrieval.evaluation.report.sentence import summary_sentence


class Cell(NamedTuple):
    """A figure, and what is said smaller beside it, as its interval."""

    text: str
    note: str = ""


class Table(NamedTuple):
    """A table whose rows are systems.

    Attributes:
        caption: what it shows.
        columns: headings after the first, which is "system".
        rows: name of the system, and a cell for each column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def main_table(comparison: ComparisonReport, found: Sequence[Glance]) -> Table:
    """Quality, speed and memory of every system, on one line each."""
    metric = metric_title(comparison.metrics[0])
    several = len(comparison.data_sets) > 1
    over = f"on average over {len(comparison.data_sets)} data sets" if several else f"on {comparison.data_sets[0].name}"
    rows = []
    for each in found:
        is_first = each.name == comparison.baseline
        rows.append(
            (
                each.name,
                (
                    Cell(score(each.mean), "" if several else interval(each.interval)),
                    Cell("baseline") if is_first else Cell(share(each.retention), _shares(each.retention_interval)),
                    Cell("") if is_first else _verdict(each, several),
                    Cell(plain(each.milliseconds)),
                    Cell("") if is_first else Cell(factor(each.speed), _factors(each.speed_spread)),
                    Cell(size(each.memory_per_document)),
                    Cell("") if is_first else Cell(UNKNOWN if each.memory is None else share(1 / each.memory)),
                    Cell(plain(each.documents_per_second)),
                    Cell(count(each.parameters)),
                ),
            )
        )
    columns = (
        metric,
        "kept",
        "differs significantly" if several else "p (Holm)",
        "ms per query, p50",
        "speed vs. baseline",
        "index memory per document",
        "memory vs. baseline",
        "documents/s",
        "parameters",
    )
    table = Table(f"Quality, speed and memory {over}", columns, tuple(rows))
    if comparison.is_judged:
        return table
    agreement = _with_columns(table, (0, *range(3, len(columns))))
    return agreement._replace(caption=f"Agreement with {comparison.baseline}, speed and memory {over}")


def main_table_html(comparison: ComparisonReport) -> str:
    """The sentence and the main table as HTML, for notebooks."""
    table = main_table(comparison, glances(comparison))
    rows = [
        [name, *(f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in cells)]
        for name, cells in table.rows
    ]
    return f"<p>{escape(summary_sentence(comparison))}</p>{html_table(['system', *table.columns], rows, table.caption)}"


def quality_table(comparison: ComparisonReport, data_set: DataSetReport, metric: str) -> Table:
    """One metric on one data set, with the tests against the first system."""
    rows = []
    for system in comparison.systems:
        result = data_set.systems[system.name]
        found, contrast = result.scores[metric], result.contrasts.get(metric)
        cells = [Cell(score(found.mean), interval(found.interval))]
        if contrast is None:
            cells += [Cell("baseline"), *[Cell("")] * 4]
        else:
            cells += [
                Cell(share(found.retention), _shares(found.retention_interval)),
                Cell(signed(contrast.difference), f"{signed(contrast.interval[0])} to {signed(contrast.interval[1])}"),
                Cell(
                    p_value(contrast.randomisation_p_holm),
                    "significant" if significant(contrast) else "not significant",
                ),
                Cell(p_value(contrast.t_test_p)),
                Cell(f"{contrast.wins:,} / {contrast.ties:,} / {contrast.losses:,}"),
            ]
        rows.append((system.name, tuple(cells)))
    columns = (metric_title(metric), "kept", "difference", "p (Holm)", "t-test p", "better / same / worse")
    table = Table(f"{metric_title(metric)} on {data_set.name}", columns, tuple(rows))
    return table if comparison.is_judged else _with_columns(table, (0,))


def opinion_table(comparison: ComparisonReport) -> Table | None:
    """What a model thinks of the first ten results; None where no model was asked."""
    judge = comparison.judge
    if judge is None:
        return None
    rows = []
    for system in comparison.systems:
        average, is_first = judge.averages[system.name], system.name == comparison.baseline
        found = [data.systems[system.name].opinion for data in comparison.data_sets]
        tested = [each.contrast for each in found if each is not None and each.contrast is not None]
        shown = [p_value(each.randomisation_p_holm) for each in tested]
        only = interval(found[0].score.interval) if len(found) == 1 and found[0] is not None else ""
        kept = Cell("") if is_first else Cell(share(average.retention), _shares(average.retention_interval))
        rows.append((system.name, (Cell(score(average.mean), only), kept, Cell(", ".join(shown)))))
    caption = f"Opinion of the model {judge.name} ({judge.kind}) on the first ten results. No person judged"
    return Table(caption, (OPINION, f"share of {comparison.baseline}'s", "p (Holm)"), tuple(rows))


def _with_columns(table: Table, places: Sequence[int]) -> Table:
    """The columns of a table at these places."""
    rows = tuple((name, tuple(cells[place] for place in places)) for name, cells in table.rows)
    return Table(table.caption, tuple(table.columns[place] for place in places), rows)


def search_table(comparison: ComparisonReport, data_set: DataSetReport) -> Table:
    """What answering a query takes, and how near the answers are to exact search and to the first system's."""
    depths = list(dict.fromkeys(d for each in data_set.systems.values() for d in each.recall_against_exact))
    batch = next(iter(data_set.systems.values())).batch_queries_per_second.batch
    rows = []
    for system in comparison.systems:
        result = data_set.systems[system.name]
        latency, rate = result.latency_ms, result.batch_queries_per_second
        rows.append(
            (
                system.name,
                (
                    *(_milliseconds(part) for part in (latency.encode, latency.search, latency.total)),
                    Cell(plain(rate.median), _plains((rate.slowest, rate.fastest))),
                    *(Cell(share(result.recall_against_exact.get(depth))) for depth in depths),
                    Cell(plain(result.agreement.overlap_at_10)),
                    Cell(plain(result.agreement.rbo)),
                ),
            )
        )
    columns = (
        "encode, ms",
        "search, ms",
        "both, ms",
        f"queries/s, batches of {batch}",
        *(f"recall@{depth} of exact search" for depth in depths),
        "overlap@10",
        "rank-biased overlap",
    )
    caption = f"Answering queries of {data_set.name}: p50 / p95 / p99, and the range of the rounds' medians"
    return Table(caption, columns, tuple(rows))


def index_table(comparison: ComparisonReport, data_set: DataSetReport) -> Table:
    """The indexes of one data set."""
    rows = []
    for system in comparison.systems:
        result = data_set.systems[system.name]
        sizes, params = result.sizes, result.search
        settings = {"nprobe": params.nprobe, "refine": params.refine, "efSearch": params.ef_search}
        searched = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None) or "exact"
        rows.append(
            (
                system.name,
                (
                    Cell(result.factory),
                    Cell(searched),
                    Cell(size(sizes.index_disk_bytes), f"{size(sizes.disk_bytes_per_document)} a document"),
                    Cell(size(sizes.index_memory_bytes), f"{size(sizes.memory_bytes_per_document)} a document"),
                    Cell(f"{result.missing_queries:,}"),
                ),
            )
        )
    columns = ("type", "searched with", "on disk", "in memory", "queries without results")
    return Table(f"Indexes of {data_set.name}, {data_set.documents:,} documents", columns, tuple(rows))


def encoder_table(comparison: ComparisonReport) -> Table:
    """The encoders, and what it takes to run each system."""
    rows = []
    on_gpu = any(each.peak_memory and each.peak_memory.vram_bytes is not None for each in comparison.systems)
    for system in comparison.systems:
        encoder, rate, peak = system.encoder, system.throughput, system.peak_memory
        cells = [
            Cell(PurePath(encoder.name).name),
            Cell(f"{encoder.dims:,}"),
            Cell(count(encoder.embedding_parameters)),
            Cell(count(encoder.transformer_parameters)),
            Cell(size(encoder.model_bytes)),
            Cell(f"{encoder.max_length:,}" if encoder.max_length else "any"),
            Cell(f"{encoder.dtype}, {encoder.device}"),
            Cell(plain(rate.documents_per_second), _plains((rate.slowest, rate.fastest))) if rate else Cell(UNKNOWN),
            Cell(size(peak.bytes), f"{size(peak.rss_before)} before") if peak else Cell(UNKNOWN),
        ]
        if on_gpu:
            cells.append(Cell(size(peak.vram_bytes) if peak else UNKNOWN))
        rows.append((system.name, tuple(cells)))
    columns = (
        "encoder",
        "dimensions",
        "embedding parameters",
        "transformer parameters",
        "weights",
        "tokens read",
        "arithmetic",
        "documents/s",
        "peak memory, fresh process",
        *(["peak GPU memory"] if on_gpu else []),
    )
    return Table("Encoders, and what a system takes to run", columns, tuple(rows))


def extrapolation_table(comparison: ComparisonReport) -> Table | None:
    """What larger corpora would cost; None where nothing was measured to go by."""
    passages = list(dict.fromkeys(n for each in comparison.systems if each.cost for n in each.cost.index_gigabytes))
    if not passages:
        return None
    rows = []
    for system in comparison.systems:
        cost = system.cost
        cells = [Cell(plain(cost.passages_per_cpu_hour) if cost else UNKNOWN)]
        for number in passages:
            found = cost.index_gigabytes.get(number) if cost else None
            cells.append(Cell(f"{plain(found.disk)} / {plain(found.memory)} GB" if found else UNKNOWN))
        rows.append((system.name, tuple(cells)))
    columns = ("passages per CPU-hour", *(f"{_passages(int(number))}: disk / memory" for number in passages))
    return Table("Larger corpora: extrapolated, not measured", columns, tuple(rows))


def _verdict(each: Glance, several: bool) -> Cell:
    contrasts = list(each.contrasts.values())
    if not several:
        only = contrasts[0]
        return Cell(p_value(only.randomisation_p_holm), "significant" if significant(only) else "not significant")
    better = sum(significant(contrast) and contrast.difference > 0 for contrast in contrasts)
    worse = sum(significant(contrast) and contrast.difference < 0 for contrast in contrasts)
    told = ", ".join(f"{word} on {number}" for word, number in (("worse", worse), ("better", better)) if number)
    return Cell(told or "on 0", f"of {len(contrasts)} data sets")


def _milliseconds(found: Percentiles) -> Cell:
    return Cell(slashed((found.p50, found.p95, found.p99)), _plains(found.spread))


def _shares(bounds: Interval | None) -> str:
    return f"{share(bounds[0])} to {share(bounds[1])}" if bounds else ""


def _factors(bounds: Interval) -> str:
    """With a digit more than the factor itself has: rounded to as few, narrow spreads would be no spreads."""
    return f"{plain(bounds[0])} to {plain(bounds[1])}\N{NO-BREAK SPACE}×"


def _plains(bounds: Interval) -> str:
    return f"{plain(bounds[0])} to {plain(bounds[1])}"


def _passages(number: int) -> str:
    return f"{number / 1e9:g} B passages" if number >= 1e9 else f"{number / 1e6:.1f} M passages"
