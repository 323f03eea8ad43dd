"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus, Judgement, QuerySet
    from ibkd_retrieval.progress import Progress
from ibkd_retrieval.files import INDEXES as INDEXES
from ibkd_retrieval.files import MODELS as MODELS

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16; auto is what the hardware multiplies fastest.")
]
EncoderDtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto, float32, bfloat16, float16 or int8; auto is what the hardware multiplies fastest."
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        help="What runs the model: auto, torch, onnx or openvino; auto is the fastest that was measured here "
        "(`ibkd bench encode`, or the first large corpus) and keeps the vectors, else torch."
    ),
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens to read of a text.", show_default="the model's own limit")]
Pooling = Annotated[
    str | None, typer.Option(help="mean or cls, for a plain transformers encoder.", show_default="mean")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise UserError(f"--seed must be at least 0, not {seed}.")
    return seed


Seed = Annotated[int, typer.Option(callback=_checked_seed, help="Of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no remarks.")]
Queries = Annotated[
    str | None,
    typer.Option(
        metavar="QUERIES",
        help="ir_datasets id or short name, BEIR folder (folder:split), file, or pydocs.",
    ),
]
IdField = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Field or column of one's own file that holds the id.", show_default="the usual names"
    ),
]
TextField = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Field or column that holds the text; repeat to join several.",
        show_default="the usual names",
    ),
]
TitleField = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Field or column of the title, read before the text.",
        show_default="the usual names",
    ),
]
QrelsThreshold = Annotated[
    float | None,
    typer.Option(
        metavar="GRADE", help="Grade of --qrels from which a document is relevant, where grades are fractions."
    ),
]
QueryPrompt = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Text to put before every query.", show_default="the model's own"),
]
DocumentPrompt = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Text to put before every document.", show_default="the model's own"),
]
Nprobe = Annotated[int | None, typer.Option(help="Inverted lists to visit.", show_default="the index's own")]
Refine = Annotated[
    int | None, typer.Option(help="Candidates per result scored exactly.", show_default="the index's own")
]
EfSearch = Annotated[
    int | None, typer.Option(help="Nodes of an hnsw graph kept in view.", show_default="the index's own")
]
Recall = Annotated[
    float | None,
    typer.Option(
        help="Search with the fastest measured setting that finds this share of the exact ten nearest.",
        show_default="the index's own setting",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Where the index's own encoder is.", show_default="where it was when indexing"),
]
QueryModel = Annotated[
    str | None,
    typer.Option(
        metavar="STUDENT", help="Encode queries by a student that was distilled into the vector space of the index."
    ),
]
Engine = Annotated[str, typer.Option(help="dense (vectors), bm25 or lucene (words).")]
Hybrid = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="Fuse dense with bm25 (or --engine lucene): rrf (ranks) or sum (scores)."),
]
Weight = Annotated[
    list[float] | None,
    typer.Option("--weight", help="For --hybrid: first of dense, then of words; give both.", show_default="equal"),
]
Tune = Annotated[
    str | None,
    typer.Option(
        metavar="QUERIES", help="For --hybrid sum: find the weights on these judged queries; never those you report."
    ),
]
Rerank = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Cross-encoder that re-orders the best results by their text.")
]
RerankDepth = Annotated[int, typer.Option(help="Results a query that --rerank reads.")]
RerankMaxLength = Annotated[
    int | None, typer.Option(help="Tokens --rerank reads of query and text.", show_default="the model's own limit")
]
Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="CONDITION",
        help="Find only documents with year>=1990, source=arxiv, title!=x (=, !=, <, <=, >, >=), or those whose ids "
        "a @FILE lists, one a line; repeat: all must hold.",
    ),
]
ExcludeSelf = Annotated[bool, typer.Option("--exclude-self", help="A query's own id is no answer (ArguAna, Quora).")]
CORPUS_HELP = (
    "ir_datasets id or short name (msmarco, scifact, ...), BEIR folder, JSONL/CSV/TSV/parquet file, "
    "folder of .txt and .md files, or pydocs."
)


def corpus_source(source: str, progress: Progress, **fields: str | list[str] | None) -> str | Corpus:
    """The corpus as it was named, opened where `fields` says which of its fields to read."""
    from ibkd_retrieval.corpora.spec import open_corpus

    chosen: Any = {name: value for name, value in fields.items() if value}
    return open_corpus(source, progress, **chosen) if chosen else source


def query_source(source: str, progress: Progress, **fields: str | list[str] | None) -> str | QuerySet:
    """The queries as they were named, opened where `fields` says which of their fields to read."""
    from ibkd_retrieval.corpora.spec import open_queries

    chosen: Any = {name: value for name, value in fields.items() if value}
    return open_queries(source, progress=progress, **chosen) if chosen else source


def qrels_source(source: str, progress: Progress, qrels_threshold: float | None) -> str | tuple[Judgement, ...]:
    """The judgements as they were named, read where a threshold turns their grades into relevant or not."""
    from ibkd_retrieval.corpora.spec import open_qrels

    if qrels_threshold is None:
        return source
    return open_qrels(source, qrels_threshold=qrels_threshold, progress=progress)


def given_options(context: typer.Context) -> frozenset[str]:
    """The options of a command that the user gave, by the names of its arguments."""
    return frozenset(
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
    )
