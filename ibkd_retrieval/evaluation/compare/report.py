"""The report of a comparison: systems, results on each data set and averages, as records and as JSON (version 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.device import Environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT
from ibkd_retrieval.evaluation.compare.records import (
    Agreement,
    Average,
    Bar,
    BatchRate,
    Cost,
    EncoderFigures,
    Example,
    Interval,
    JudgeFigures,
    Latency,
    MetricContrast,
    MetricScore,
    Opinion,
    PeakMemory,
    PerQuery,
    Sizes,
    Throughput,
)
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.json_io import KEY, decode, encode, parse
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 2
"""Of the JSON that `ComparisonReport.to_json` gives."""


@dataclass(frozen=True)
class SystemRecord:
    """One system: an encoder, an index family and search parameters.

    Attributes:
        name: short unique name.
        encoder: the query encoder.
        family: the index family.
        settings: search parameters as given, or None if each index uses its own defaults.
        throughput: document encoding rate, or None if not measured.
        peak_memory: peak memory, or None if not measured.
        cost: extrapolated costs, or None if the throughput was not measured.
    """

    name: str
    encoder: EncoderFigures
    family: str
    settings: SearchParams
    throughput: Throughput | None = None
    peak_memory: PeakMemory | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class TradeoffPoint:
    """Recall and search time of an approximate index with one setting of its search parameters.

    Attributes:
        nprobe: inverted lists visited, None for a graph.
        ef_search: size of the candidate list of an HNSW graph. None for other structures.
        recall_at_10: of the exact ten nearest.
        search_p50_ms: median of a search for ten results, without encoding.
        score: first metric.
    """

    nprobe: int | None
    ef_search: int | None
    recall_at_10: float = field(metadata={KEY: "recall@10"})
    search_p50_ms: float
    score: float


@dataclass(frozen=True)
class SystemResult:
    """One system on one data set.

    Attributes:
        index: name of the index folder.
        factory: faiss factory string.
        search: the search parameters for ten results.
        missing_queries: judged queries without results, counted as 0.
        scores: by metric.
        contrasts: by metric, against the first system; empty for that one.
        recall_against_exact: by depth ("10", "100"), the share of the documents that an exact search of the same
            vectors finds first.
        agreement: with the first system.
        latency_ms: per query.
        batch_queries_per_second: in batches.
        sizes: of the index.
        gains: by cost, how many times smaller or faster than the first system it is (above 1 is better, whatever the
            cost).
        gain_spread: of each gain that was timed, the least and the greatest over the rounds, each of which timed both.
        tradeoff_curve: a point per setting of the search parameters; empty where the search is exact.
        opinion: a model's opinion of the results, or None if no model was asked.
    """

    index: str
    factory: str
    search: SearchParams
    missing_queries: int
    scores: dict[str, MetricScore]
    contrasts: dict[str, MetricContrast]
    recall_against_exact: dict[str, float]
    agreement: Agreement
    latency_ms: Latency
    batch_queries_per_second: BatchRate
    sizes: Sizes
    gains: dict[str, float]
    gain_spread: dict[str, Interval]
    tradeoff_curve: tuple[TradeoffPoint, ...] = field(metadata={KEY: "effort_curve"})
    opinion: Opinion | None = None


@dataclass(frozen=True)
class DataSetReport:
    """All systems on one corpus and one set of judged queries.

    Attributes:
        name: short name, unique in the comparison.
        corpus: name of the corpus, which `open_corpus` accepts.
        fingerprint: hash of the documents.
        documents: number of documents that are not deleted.
        queries: number of judged queries.
        query_source: name of the queries, which `open_queries` accepts.
        systems: results by system name.
        per_query: the values of each query.
        examples: for each further system, the largest losses and then the largest gains.
        relevance_level: lowest grade that counted as relevant for binary metrics; None in reports that do not say.
    """

    name: str
    corpus: str
    fingerprint: str
    documents: int
    queries: int
    query_source: str
    systems: dict[str, SystemResult]
    per_query: PerQuery
    examples: tuple[Example, ...]
    relevance_level: int | None = None


@dataclass(frozen=True, repr=False)
class ComparisonReport:
    """Systems side by side; the others are compared with the first.

    Attributes:
        created: time of creation, ISO 8601 in UTC.
        command: the command that made the report.
        seed: random seed.
        confidence: confidence level of all intervals.
        bootstrap_samples: bootstrap resamples per interval.
        environment: hardware and software of the measurements.
        baseline: name of the first system.
        metrics: metric names as given. Figures and sentences use the first.
        systems: the systems in the order given.
        data_sets: the data sets in the order given.
        averages: averages by system and metric.
        bars: results of the quality bars.
        k: results per query for metrics without a cutoff, or None if the report does not record it.
        next_steps: what to try where the student of the summary keeps too little of its teacher, best first.
        judge: the model that graded the first results, or None if no model was asked. Its figures are an opinion.
    """

    created: str
    command: str
    seed: int
    confidence: float
    bootstrap_samples: int
    environment: Environment
    baseline: str
    metrics: tuple[str, ...]
    systems: tuple[SystemRecord, ...]
    data_sets: tuple[DataSetReport, ...]
    averages: dict[str, dict[str, Average]]
    bars: tuple[Bar, ...] = ()
    k: int | None = None
    judge: JudgeFigures | None = None
    next_steps: tuple[str, ...] = ()

    @property
    def is_judged(self) -> bool:
        """Whether there were judgements. If not, the metrics measure agreement with the first system."""
        return self.metrics != AGREEMENT

    def save(self, folder: Path | str, progress: Progress = SILENT) -> list[Path]:
        """Write report.json, report.md, report.html and report.png, each whole or not at all.

        Without the plotting packages, the page and the picture are left out, and a message says so. The measurements
        are not lost.

        Args:
            folder: the folder of the report. It is created if absent.
            progress: receives the paths of the files, and how to install missing packages.

        Returns:
            The files.
        """
        from ibkd_retrieval.errors import MissingPackage
        from ibkd_retrieval.evaluation.report import write_report

        folder = Path(folder)
        try:
            files = write_report(self, folder)
            progress.say(", ".join(map(str, files)))
        except MissingPackage as error:
            files = [folder / "report.json", folder / "report.md"]
            progress.say(f"{files[0]}, {files[1]}. {error}")
        return files

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row per data set, system and metric: score, interval, retention, tests and costs."""
        import pandas as pd

        rows = []
        for data in self.data_sets:
            for system in self.systems:
                result = data.systems[system.name]
                for metric, found in result.scores.items():
                    contrast = result.contrasts.get(metric)
                    rows.append(
                        {
                            "data_set": data.name,
                            "system": system.name,
                            "metric": metric,
                            "score": found.mean,
                            "low": found.interval[0],
                            "high": found.interval[1],
                            "retention": found.retention,
                            "difference": contrast and contrast.difference,
                            "p": contrast and contrast.randomisation_p_holm,
                            "overlap@10": result.agreement.overlap_at_10,
                            "opinion": result.opinion and result.opinion.score.mean,
                            "query_ms": result.latency_ms.total.p50,
                            "speed": result.gains.get("query_total_p50"),
                            "index_memory_bytes": result.sizes.index_memory_bytes,
                            "documents_per_second": system.throughput and system.throughput.documents_per_second,
                            "parameters": system.encoder.parameters,
                        }
                    )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """The sentence that the report begins with."""
        from ibkd_retrieval.evaluation.report import summary_sentence

        return summary_sentence(self).replace("\N{NO-BREAK SPACE}", " ")

    def _repr_html_(self) -> str:
        from ibkd_retrieval.evaluation.report import main_table_html

        return main_table_html(self)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types: "format_version", then the fields; the schema is in docs/formats.md."""
        fields: dict[str, Any] = encode(self)
        return {"format_version": FORMAT_VERSION} | fields


def read_comparison(path: Path | str) -> ComparisonReport:
    """Read the JSON of a comparison.

    Raises:
        UserError: the file is missing, damaged, not a comparison, or of an older or newer format.
    """
    path = Path(path)
    try:
        value = parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the report.json of `compare()`.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): name the report.json of `compare()`.") from error
    version = value.get("format_version") if isinstance(value, dict) else None
    if type(version) is not int or "systems" not in value:
        raise UserError(f"{path} holds no comparison: name the report.json of `compare()`.")
    if version < FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, which lacks what is read here: make it again with `compare()`."
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has comparison format {version}, this version of ibkd-retrieval reads {FORMAT_VERSION}: upgrade "
            "with `pip install -U ibkd-retrieval`."
        )
    try:
        report = decode(ComparisonReport, value)
        _check(report)
    except ValueError as error:
        raise UserError(f"{path} is a damaged comparison ({error}): make it again with `compare()`.") from error
    return report


def _check(report: ComparisonReport) -> None:
    names = [system.name for system in report.systems]
    if not names or not report.data_sets or not report.metrics:
        raise ValueError("it has no systems, no data sets or no metrics")
    if report.baseline != names[0] or len(set(names)) < len(names):
        raise ValueError("the first system is not the baseline, or two have one name")
    if set(report.averages) != set(names) or any(
        set(found) != set(report.metrics) for found in report.averages.values()
    ):
        raise ValueError("averages are not of the systems and metrics")
    for each in report.data_sets:
        values = each.per_query.values
        if set(each.systems) != set(names) or set(values) != set(names):
            raise ValueError(f"data set {each.name} does not have the systems {', '.join(names)}")
        if any(set(values[name]) != set(report.metrics) for name in names):
            raise ValueError(f"data set {each.name} lacks the values of a metric")
        if any(set(result.scores) != set(report.metrics) for result in each.systems.values()):
            raise ValueError(f"data set {each.name} lacks the scores of a metric")
        if any(len(column) != len(each.per_query.ids) for found in values.values() for column in found.values()):
            raise ValueError(f"data set {each.name} does not have one value for each query")
