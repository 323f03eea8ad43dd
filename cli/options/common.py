"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from ibkd_retrieval.encoders.loading import POOLINGS
from ibkd_retrieval.errors import UserError

from .declare import ADVANCED, at_least, flag, option

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus, Judgement, QuerySet
    from ibkd_retrieval.progress import Progress

FILES = f"{ADVANCED}: fields of your own files"
COMPUTING = f"{ADVANCED}: how models run"

CORPUS_HELP = (
    "Documents: a data set by name (msmarco, scifact, ...), a BEIR folder, a JSONL, CSV, TSV or parquet file, a folder "
    "of .txt and .md files, or pydocs."
)
QUERIES_HELP = "Queries: a data set by name, a BEIR folder (folder:split), a file, or pydocs."


def seed_option(panel: str) -> Any:
    """The option of the seed, in a panel."""
    return option("Seed of every random choice.", panel=panel, callback=at_least(0))


Queries = Annotated[str | None, option(QUERIES_HELP, metavar="QUERIES")]
Quiet = Annotated[bool, flag("Show no progress and no remarks.", "--quiet", "-q")]
QrelsThreshold = Annotated[
    float | None,
    option(
        "Grade of --qrels from which a document is relevant, where grades are fractions.",
        panel=FILES,
        metavar="GRADE",
    ),
]

COMPUTATION: dict[str, Any] = {
    "device": option("Where models run: auto, cpu, cuda or cuda:N.", panel=COMPUTING, metavar="DEVICE"),
    "dtype": option(
        "Number format of the encoder; auto is what the hardware multiplies fastest.",
        panel=COMPUTING,
        metavar="FORMAT",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
    ),
    "backend": option(
        "What runs the encoder. auto is the fastest that was measured here with vectors close to float32, else torch; "
        "`ibkd bench encode` measures.",
        panel=COMPUTING,
        choices=("auto", "torch", "onnx", "openvino"),
    ),
    "pooling": option(
        "How tokens are pooled, in place of what the model's folder says.",
        panel=COMPUTING,
        default="the folder's; without one lasttoken for a causal language model, else mean",
        choices=POOLINGS,
    ),
    "max_length": option("Tokens to read of a text.", panel=COMPUTING, default="the model's own limit"),
    "query_prompt": option(
        "Text to put before every query.", panel=COMPUTING, default="the model's own", metavar="TEXT"
    ),
    "document_prompt": option(
        "Text to put before every document.", panel=COMPUTING, default="the model's own", metavar="TEXT"
    ),
}
"""How an encoder runs, by the fields of every record that says so."""


def on_cluster(panel: str) -> dict[str, Any]:
    """The work on a cluster, by the names of the parameters, in a panel of the help page."""
    return {
        "cluster": option(
            "Ray cluster that does the work: auto for the one that this machine belongs to, or its HOST:PORT.",
            panel=panel,
            default="this machine alone",
            metavar="ADDRESS",
        ),
        "worker_cpus": option("Cores of a process on a cluster.", panel=panel, default="1"),
    }


_ENDPOINT = f"{ADVANCED}: endpoints"
SPENDING: dict[str, Any] = {
    "price": option(
        "Dollars per million tokens of an endpoint, to show the cost before anything is sent.",
        panel=_ENDPOINT,
        default="tokens alone are shown",
        metavar="DOLLARS",
    ),
    "yes": flag("Agree to the cost of an endpoint without being asked.", "--yes", panel=_ENDPOINT),
    "requests_per_minute": option("Most requests a minute to an endpoint.", panel=_ENDPOINT, default="no limit"),
    "tokens_per_minute": option("Most tokens a minute to an endpoint.", panel=_ENDPOINT, default="no limit"),
}
"""What may be spent on an endpoint, and how fast, by the fields of every record that says so."""

Device = Annotated[str, COMPUTATION["device"]]
Pooling = Annotated[str | None, COMPUTATION["pooling"]]
MaxLength = Annotated[int | None, COMPUTATION["max_length"]]


@dataclass(frozen=True)
class Computation:
    """How encoders run, where nothing else is chosen of them."""

    device: Annotated[str, COMPUTATION["device"]] = "auto"
    dtype: Annotated[str, COMPUTATION["dtype"]] = "auto"
    backend: Annotated[str, COMPUTATION["backend"]] = "auto"


@dataclass(frozen=True)
class Output:
    """How a command shows what it did."""

    json: Annotated[bool, flag("Print one JSON object.", "--json")] = False
    quiet: Quiet = False

    @cached_property
    def progress(self) -> Progress:
        """Where jobs report to."""
        from ..display.console import reporter

        return reporter(self.quiet)

    def say_where_time_went(self) -> None:
        """Say how long the command took, and what took longest."""
        took = getattr(self.progress, "took", None)
        if took is not None:
            self.progress.say(took())


@dataclass(frozen=True)
class Unfinished:
    """What becomes of an output that is there already."""

    resume: Annotated[bool, flag("Go on with an unfinished output.", "--resume")] = False
    overwrite: Annotated[bool, flag("Replace an existing output.", "--overwrite")] = False


@dataclass(frozen=True)
class QueryFields:
    """Which fields of one's own file of queries are read."""

    id_field: Annotated[
        str | None,
        option("Field or column that holds the id.", panel=FILES, default="the usual names", metavar="NAME"),
    ] = None
    text_field: Annotated[
        tuple[str, ...],
        option(
            "Field or column that holds the text; repeat to join several.",
            panel=FILES,
            default="the usual names",
            metavar="NAME",
        ),
    ] = ()

    def queries(self, source: str, progress: Progress) -> str | QuerySet:
        """The queries as they were named, opened where their fields were named too."""
        from ibkd_retrieval.corpora.spec import open_queries

        chosen: Any = {name: value for name, value in vars(self).items() if value}
        return open_queries(source, progress=progress, **chosen) if chosen else source

    def refuse_without_queries(self, queries: object) -> None:
        """Refuse fields where no queries are named."""
        if not queries and any(vars(self).values()):
            raise UserError("`id_field` and `text_field` are those of `queries`: give that too.")


@dataclass(frozen=True)
class CorpusFields(QueryFields):
    """Which fields of one's own corpus are read."""

    title_field: Annotated[
        str | None,
        option(
            "Field or column of the title, read before the text.",
            panel=FILES,
            default="the usual names",
            metavar="NAME",
        ),
    ] = None

    def corpus(self, source: str, progress: Progress) -> str | Corpus:
        """The corpus as it was named, opened where its fields were named too."""
        from ibkd_retrieval.corpora.spec import open_corpus

        chosen: Any = {name: value for name, value in vars(self).items() if value}
        return open_corpus(source, progress, **chosen) if chosen else source


def judgements(
    sources: Sequence[str], qrels_threshold: float | None, progress: Progress
) -> list[str | tuple[Judgement, ...]]:
    """The judgements as they were named, read where a threshold turns their grades into relevant or not."""
    from ibkd_retrieval.corpora.spec import open_qrels

    if qrels_threshold is None:
        return list(sources)
    if not sources:
        raise UserError("`qrels_threshold` is that of `qrels`: give that too.")
    return [open_qrels(each, qrels_threshold=qrels_threshold, progress=progress) for each in sources]
