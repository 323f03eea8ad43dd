"""The files of a report: JSON, Markdown, a self-contained HTML page, and a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.evaluation import formatting
from ibkd_retrieval.evaluation.compare.report import ComparisonReport, DataSetReport
from ibkd_retrieval.evaluation.formatting import counted, metric_title, score, signed
from ibkd_retrieval.evaluation.report import canvas, plots, sentence, tables
from ibkd_retrieval.evaluation.report.canvas import marker_svg, require_matplotlib
from ibkd_retrieval.evaluation.report.glance import ShownExample, counted_queries, glances, shown_examples
from ibkd_retrieval.evaluation.report.plots import overview_png
from ibkd_retrieval.evaluation.report.sentence import further_sentences, headline, summary_sentence
from ibkd_retrieval.evaluation.report.tables import (
    Cell,
    Table,
    encoder_table,
    extrapolation_table,
    index_table,
    main_table,
    opinion_table,
    quality_table,
    search_table,
)
from ibkd_retrieval.files import atomic_write, write_json

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_MOST_TEXT = 120


def comparison_as_markdown(comparison: ComparisonReport, picture: str | None = None) -> str:
    """The sentence, all tables, the queries that lost and won most, and how to make the report again.

    Args:
        comparison: to write down.
        picture: file name of the PNG beside it; None leaves it out.
    """
    lines = [f"# {_text(comparison.baseline)} compared", "", f"**{_text(summary_sentence(comparison))}**", ""]
    if picture:
        lines += [f"![Quality against latency and against memory]({picture})", ""]
    for bar in comparison.bars:
        lines += [f"{'Passed' if bar.passed else '**Failed**'}: {_text(bar.why)}", ""]
    lines += [*_table(main_table(comparison, glances(comparison))), *_bullets(further_sentences(comparison))]
    if comparison.next_steps:
        lines += ["To keep more, in this order:", "", *_bullets(comparison.next_steps)]
    opinion = opinion_table(comparison)
    lines += [] if opinion is None else _table(opinion)
    for data_set in comparison.data_sets:
        lines += _data_set(comparison, data_set)
    lines += ["## What a system takes to run", "", *_table(encoder_table(comparison))]
    extrapolation = extrapolation_table(comparison)
    if extrapolation is not None:
        lines += _table(extrapolation)
    return "\n".join([*lines, *_reproduction(comparison)]) + "\n"


def _data_set(comparison: ComparisonReport, data_set: DataSetReport) -> list[str]:
    lines = [
        f"## {_text(data_set.name)}",
        "",
        f"{counted(data_set.documents, 'document', 'documents')} of {_text(data_set.corpus)}, "
        f"{counted_queries(comparison, data_set.queries)} of "
        f"{_text(data_set.query_source)}.",
        "",
    ]
    for metric in comparison.metrics:
        lines += _table(quality_table(comparison, data_set, metric))
    lines += [*_table(search_table(comparison, data_set)), *_table(index_table(comparison, data_set))]
    for found in shown_examples(data_set, comparison.baseline):
        # The page and the JSON have them all; here those of the system that the sentence is about will do.
        if found.system == headline(comparison):
            for title, shown in (("lost", found.lost), ("won", found.won)):
                if shown:
                    verb = title if comparison.is_judged else "changed the answers"
                    lines += [f"### Queries on which {_text(found.system)} {verb} most", ""]
                    lines += [line for each in shown for line in _example(each)] + [""]
    return lines


def _example(shown: ShownExample) -> list[str]:
    each = shown.example
    change = signed(each.value - each.baseline_value)
    lines = [
        f"- **{_text(each.query)}** {metric_title(each.metric)} {score(each.baseline_value)} → {score(each.value)} "
        f"({change})"
    ]
    for system, documents in shown.rankings:
        ranked = [
            f"{rank}. {_text(_short(one.document.title or one.document.text))}{' ✓' if one.relevant else ''}"
            for rank, one in enumerate(documents, 1)
        ]
        lines.append(f"  - {_text(system)}: {' · '.join(ranked) or 'no results'}")
    return lines


def _reproduction(comparison: ComparisonReport) -> list[str]:
    environment = comparison.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    sources = [
        f"{_text(each.corpus)} (fingerprint `{each.fingerprint}`), queries {_text(each.query_source)}"
        for each in comparison.data_sets
    ]
    return [
        "## How to make it again",
        "",
        *(f"    {line}" for line in comparison.command.splitlines()),
        "",
        f"- {comparison.created}, seed {comparison.seed}; {_text(environment.cpu or environment.platform)}, "
        f"{environment.threads} threads; Python {environment.python}, {versions}",
        *(f"- {source}" for source in sources),
        f"- intervals: {comparison.confidence:.0%} bootstrap, {comparison.bootstrap_samples:,} resamples; "
        f"{_reading(comparison)} Systems were timed in turn: compare factors, not milliseconds.",
    ]


def _reading(comparison: ComparisonReport) -> str:
    first = _text(comparison.baseline)
    if not comparison.is_judged:
        return f"*overlap@10* and *rbo* (rank-biased overlap): agreement with the rankings of {first}."
    return (
        f"*kept*: share of the score of {first}; *p (Holm)*: paired randomisation test against it, corrected over all "
        "contrasts; ✓: judged relevant."
    )


def _table(table: Table) -> list[str]:
    heads = ["system", *table.columns]
    rows = [[_text(system), *(_cell(cell) for cell in cells)] for system, cells in table.rows]
    return [
        f"**{_text(table.caption)}**",
        "",
        f"| {' | '.join(map(_text, heads))} |",
        "|---|" + "---:|" * len(table.columns),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _cell(cell: Cell) -> str:
    return _text(f"{cell.text} ({cell.note})" if cell.note else cell.text)


def _bullets(sentences: Sequence[str]) -> Iterable[str]:
    return [*(f"- {_text(each)}" for each in sentences), ""] if sentences else []


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def _text(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


_HERE = Path(__file__).parent


def comparison_as_html(comparison: ComparisonReport) -> str:
    """The whole page: sentence, tables, figures, examples, and how to make it again.

    Raises:
        MissingPackage: matplotlib or jinja2 is not installed.
    """
    require_matplotlib()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        counted=formatting.counted,
        counted_queries=lambda number: counted_queries(comparison, number),
        metric_title=formatting.metric_title,
        moment=formatting.moment,
        score=formatting.score,
        signed=formatting.signed,
        svg=Markup,
    )
    looks = plots.system_looks(comparison)
    sections = [
        {
            "data_set": data_set,
            "quality": [tables.quality_table(comparison, data_set, metric) for metric in comparison.metrics],
            "plots": plots.data_set_plots(comparison, data_set, f"set-{number}"),
            "search": tables.search_table(comparison, data_set),
            "indexes": tables.index_table(comparison, data_set),
            "examples": shown_examples(data_set, comparison.baseline),
        }
        for number, data_set in enumerate(comparison.data_sets, 1)
    ]
    return templates.get_template("page.html").render(
        comparison=comparison,
        summary=sentence.summary_sentence(comparison),
        headline=sentence.headline(comparison),
        further=sentence.further_sentences(comparison),
        main=tables.main_table(comparison, glances(comparison)),
        opinion=opinion_table(comparison),
        fronts=plots.average_fronts(comparison),
        sections=sections,
        encoders=tables.encoder_table(comparison),
        extrapolation=tables.extrapolation_table(comparison),
        markers={name: marker_svg(look) for name, look in looks.items()},
        light=canvas.LIGHT,
        dark=canvas.DARK,
        style=Markup((_HERE / "page.css").read_text("utf-8")),
    )


def write_report(comparison: ComparisonReport, folder: Path) -> list[Path]:
    """Write report.json, report.md, report.html and report.png into `folder`, each whole or not at all.

    Args:
        comparison: to write down.
        folder: made where there is none.

    Returns:
        The files, in this order.

    Raises:
        MissingPackage: matplotlib is not installed; report.json and report.md are there all the same, and say nothing
            of a picture.
    """
    try:
        require_matplotlib()
        missing = None
    except MissingPackage as error:
        missing = error
    json, markdown, page, picture = (folder / f"report.{ending}" for ending in ("json", "md", "html", "png"))
    write_json(json, comparison.to_json())
    _write(markdown, comparison_as_markdown(comparison, None if missing else picture.name).encode("utf-8"))
    if missing is not None:
        raise missing
    _write(page, comparison_as_html(comparison).encode("utf-8"))
    _write(picture, overview_png(comparison))
    return [json, markdown, page, picture]


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
