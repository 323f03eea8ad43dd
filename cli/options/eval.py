"""The options of `ibkd eval`, and its tasks with the options that each of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.options import RankerOptions

from .common import QrelsThreshold, Queries, seed_option
from .declare import ADVANCED, Given, at_least, option
from .index import CHOICES
from .ranking import RANKING, SEARCHED

TASKS_PANEL = f"{ADVANCED}: suites and sentence pairs"
STATISTICS = f"{ADVANCED}: scores and statistics"
FORMATS = ("table", "json", "csv", "latex")
_ENCODED = ("workers", "worker_cpus")


@dataclass(frozen=True)
class EvalOptions:
    """What is scored, against what, and how the result is shown."""

    index: Annotated[
        tuple[Path, ...],
        option(
            "Index folder to search; repeat for parts of one corpus.",
            metavar="INDEX",
            default="the newest in indexes/",
        ),
    ] = ()
    queries: Queries = None
    metrics: Annotated[
        tuple[str, ...],
        option(
            "Metric: mrr@10, ndcg@10, recall@1000, ...; repeatable.",
            "--metric",
            metavar="METRIC",
            default="the data set's own, ndcg@10, mrr@10, recall@100",
        ),
    ] = ()
    run: Annotated[tuple[Path, ...], option("Score this run instead of searching; repeatable.", metavar="RUN")] = ()
    qrels: Annotated[
        str | None,
        option(
            "Judgements: a TREC, BEIR, CSV, TSV, JSONL or parquet file, or any QUERIES that have them.", metavar="QRELS"
        ),
    ] = None
    baseline: Annotated[
        tuple[Path, ...], option("Another run to test the differences against; repeatable.", metavar="RUN")
    ] = ()
    format: Annotated[str, option("Form of the result.", choices=FORMATS)] = "table"
    output: Annotated[
        Path | None,
        option(
            "File for the result, in --format; for a suite the folder of its indexes and its suite.json.",
            default="standard output; indexes/",
            metavar="PATH",
        ),
    ] = None
    per_query: Annotated[
        Path | None, option("Write every query's values: .tsv or .jsonl.", metavar="FILE", panel=STATISTICS)
    ] = None
    k: Annotated[int, option("Results a query when searching.", "--k", "-k", panel=STATISTICS)] = 1000
    relevance_level: Annotated[
        int | None,
        option(
            "Lowest grade that counts as relevant.",
            default="the data set's",
            panel=STATISTICS,
            callback=at_least(1, ": grade 0 is not relevant"),
        ),
    ] = None
    resamples: Annotated[
        int,
        option("Resamples of the queries behind each bootstrap interval.", panel=STATISTICS, callback=at_least(1)),
    ] = 5000
    seed: Annotated[int, seed_option(STATISTICS)] = 0
    task: Annotated[
        str,
        option(
            "retrieval, or sts: how a model's cosines order sentence pairs.",
            panel=TASKS_PANEL,
            choices=("retrieval", "sts"),
        ),
    ] = "retrieval"
    data: Annotated[
        tuple[Path, ...],
        option(
            "For --task sts: scored sentence pairs, file or SentEval folder; repeatable.",
            metavar="PAIRS",
            panel=TASKS_PANEL,
        ),
    ] = ()
    suite: Annotated[
        str | None,
        option(
            "beir, nano-beir, lotte, msmarco, cqadupstack, or a folder of BEIR folders: index and score each data set.",
            metavar="SUITE",
            panel=TASKS_PANEL,
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        option("Where local copies of the suite's data sets are.", metavar="DIR", panel=TASKS_PANEL),
    ] = None
    type: Annotated[str, option("Index type for the suite: flat, ivf-pq, ...", metavar="TYPE", panel=TASKS_PANEL)] = (
        "flat"
    )
    workers: Annotated[int | None, CHOICES["workers"]] = None
    worker_cpus: Annotated[int | None, CHOICES["worker_cpus"]] = None
    qrels_threshold: QrelsThreshold = None


_MODEL = option(
    "Where the index's own encoder is now; for a suite or sentence pairs, the encoder.",
    panel=SEARCHED,
    default="where it was when indexing; the newest student in models/",
    metavar="MODEL",
)
Ranking = Annotated[RankerOptions, RANKING | {"model": _MODEL}]


class Task(NamedTuple):
    """What the command can do.

    Attributes:
        called: the option that asks for it, for a sentence.
        uses: every option that it has a use for.
        told: what is said of options that it has none for, by option. Of others it is said that they do not go with it.
    """

    called: str
    uses: frozenset[str]
    told: Mapping[str, str]


_SHOWN = frozenset({"format", "output", "json", "quiet"})
_DRAWN = frozenset({"resamples", "seed"})
_COMPUTED = frozenset({"device", "dtype", "backend"})
_FIELDS = frozenset({"id_field", "text_field"})
_JUDGED = frozenset({"metrics", "queries", "qrels", "qrels_threshold", "baseline", "per_query", "relevance_level"})
_OWN_QUERIES = (
    "`suite` brings its own queries: leave out `run`, `index`, `queries`, `qrels`, `baseline` and `per_query`."
)
_AS_IT_IS = "`run` is scored as it is: leave out the options of searching, or give `index` instead."
TASKS = {
    "sts": Task("task=sts", frozenset({"task", "data", "model", "pooling"}) | _COMPUTED | _DRAWN | _SHOWN, {}),
    "suite": Task(
        "suite",
        frozenset(
            {"task", "suite", "data_dir", "type", "metrics", "k", "relevance_level", *_ENCODED, *RANKING}
            - {"tune", "query_vectors"}
        )
        | _SHOWN,
        dict.fromkeys(("run", "index", "queries", "qrels", "baseline", "per_query"), _OWN_QUERIES)
        | {"tune": "`tune` finds weights for one data set, not for a suite: give `weights` instead."},
    ),
    "run": Task(
        "run",
        frozenset({"task", "run"}) | _JUDGED | _DRAWN | _SHOWN,
        {"index": "Give either `run` or `index`, not both: score them one after the other."}
        | dict.fromkeys(set(RANKING) - _COMPUTED, _AS_IT_IS),
    ),
    "index": Task("index", frozenset({"task", "index", "k", *RANKING}) | _JUDGED | _DRAWN | _FIELDS | _SHOWN, {}),
}
_BELONGS = {
    "data": "`data` names the sentence pairs of `task=sts`: give that too.",
    "data_dir": "`data_dir` says where the data sets of `suite` are: give `suite` too.",
    "type": "`type` is that of the indexes that `suite` makes: give `suite` too.",
    **{name: f"`{name}` is for the indexes that `suite` makes: give `suite` too." for name in _ENCODED},
}


def chosen_task(asked: EvalOptions, given: Given) -> str:
    """The task that the options ask for, a key of `TASKS`.

    Raises:
        UserError: an option is unknown, or the task has no use for one.
    """
    if asked.format not in FORMATS:
        raise UserError(f"Unknown format `{asked.format}`: use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if asked.task not in ("retrieval", "sts"):
        raise UserError(f"Unknown task `{asked.task}`: use retrieval or sts.")
    name = "sts" if asked.task == "sts" else "suite" if asked.suite is not None else "run" if asked.run else "index"
    task = TASKS[name]
    wrong = [each for each in given if each not in task.uses]
    for each in wrong:
        if each in task.told:
            raise UserError(task.told[each])
        if name != "sts" and each in _BELONGS:
            raise UserError(_BELONGS[each])
    if wrong:
        names = ", ".join(f"`{each}`" for each in wrong)
        raise UserError(
            f"{names} cannot be used with `{task.called}`: leave {'it' if len(wrong) == 1 else 'them'} out."
        )
    if name == "sts" and not asked.data:
        raise UserError("`task=sts` needs sentence pairs: name a file or a SentEval folder with `data`; repeatable.")
    return name


def form_of(asked: EvalOptions, json: bool) -> str:
    """The form of the result, which `json` names too."""
    if json and asked.format not in ("json", "table"):
        raise UserError(f"`json` and `format={asked.format}` contradict each other: give one of them.")
    return "json" if json else asked.format
