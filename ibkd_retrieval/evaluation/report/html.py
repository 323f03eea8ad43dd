"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from ibkd_retrieval.evaluation.compare.report import ComparisonReport
from ibkd_retrieval.evaluation.report import canvas, numbers, plots, sentence, tables
from ibkd_retrieval.evaluation.report.canvas import require_matplotlib
from ibkd_retrieval.evaluation.report.glance import counted_queries, glances, shown_examples
from ibkd_retrieval.evaluation.report.svg import marker_svg

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
        counted=numbers.counted,
        counted_queries=lambda number: counted_queries(comparison, number),
        metric_title=numbers.metric_title,
        moment=numbers.moment,
        score=numbers.score,
        signed=numbers.signed,
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
        fronts=plots.average_fronts(comparison),
        sections=sections,
        encoders=tables.encoder_table(comparison),
        extrapolation=tables.extrapolation_table(comparison),
        markers={name: marker_svg(look) for name, look in looks.items()},
        light=canvas.LIGHT,
        dark=canvas.DARK,
        style=Markup((_HERE / "page.css").read_text("utf-8")),
    )
