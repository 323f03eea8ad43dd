"""Distil a text encoder, index a corpus with the student, search it, and measure what was gained and lost.

The names below are loaded when they are first used, so that importing the package loads none of the heavy libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.catalog.descriptions import datasets as datasets
    from ibkd_retrieval.corpora.records import Corpus as Corpus
    from ibkd_retrieval.corpora.records import Document as Document
    from ibkd_retrieval.corpora.records import Judgement as Judgement
    from ibkd_retrieval.corpora.records import Query as Query
    from ibkd_retrieval.corpora.records import QuerySet as QuerySet
    from ibkd_retrieval.corpora.spec import open_corpus as open_corpus
    from ibkd_retrieval.corpora.spec import open_qrels as open_qrels
    from ibkd_retrieval.corpora.spec import open_queries as open_queries
    from ibkd_retrieval.distill.api import Student as Student
    from ibkd_retrieval.distill.api import distill as distill
    from ibkd_retrieval.distill.config import DistillConfig as DistillConfig
    from ibkd_retrieval.distill.inventory import describe_folder as describe_folder
    from ibkd_retrieval.distill.inventory import inventory as inventory
    from ibkd_retrieval.distill.output.publishing import push as push
    from ibkd_retrieval.encoders.autotune.benchmark import bench_encode as bench_encode
    from ibkd_retrieval.encoders.encoder import Encoder as Encoder
    from ibkd_retrieval.errors import UserError as UserError
    from ibkd_retrieval.evaluation.compare.compare import compare as compare
    from ibkd_retrieval.evaluation.compare.plan import ComparedIndex as ComparedIndex
    from ibkd_retrieval.evaluation.compare.report import ComparisonReport as ComparisonReport
    from ibkd_retrieval.evaluation.evaluate import evaluate as evaluate
    from ibkd_retrieval.evaluation.evaluate_index import evaluate_index as evaluate_index
    from ibkd_retrieval.evaluation.evaluate_index import open_index as open_index
    from ibkd_retrieval.evaluation.scores import Scores as Scores
    from ibkd_retrieval.evaluation.sts import evaluate_sts as evaluate_sts
    from ibkd_retrieval.evaluation.suite import evaluate_suite as evaluate_suite
    from ibkd_retrieval.indexing.api import append as append
    from ibkd_retrieval.indexing.api import delete as delete
    from ibkd_retrieval.indexing.api import export as export
    from ibkd_retrieval.indexing.config import IndexConfig as IndexConfig
    from ibkd_retrieval.indexing.config import SearchParams as SearchParams
    from ibkd_retrieval.indexing.describe import describe as describe
    from ibkd_retrieval.search.api import Index as Index
    from ibkd_retrieval.search.api import build_index as build_index
    from ibkd_retrieval.search.api import combine as combine
    from ibkd_retrieval.search.api import import_vectors as import_vectors
    from ibkd_retrieval.search.hits import Hits as Hits
    from ibkd_retrieval.search.runs import Hit as Hit
    from ibkd_retrieval.search.runs import Run as Run
    from ibkd_retrieval.search.runs.run_files import read_run as read_run
    from ibkd_retrieval.search.runs.run_files import write_run as write_run

__version__ = "0.1.0"

_PUBLIC = {
    "ComparedIndex": "evaluation.compare.plan:ComparedIndex",
    "ComparisonReport": "evaluation.compare.report:ComparisonReport",
    "Corpus": "corpora.records:Corpus",
    "DistillConfig": "distill.config:DistillConfig",
    "Document": "corpora.records:Document",
    "Encoder": "encoders.encoder:Encoder",
    "Hit": "search.runs:Hit",
    "Hits": "search.hits:Hits",
    "Index": "search.api:Index",
    "IndexConfig": "indexing.config:IndexConfig",
    "Judgement": "corpora.records:Judgement",
    "Query": "corpora.records:Query",
    "QuerySet": "corpora.records:QuerySet",
    "Run": "search.runs:Run",
    "Scores": "evaluation.scores:Scores",
    "SearchParams": "indexing.config:SearchParams",
    "Student": "distill.api:Student",
    "UserError": "errors:UserError",
    "append": "indexing.api:append",
    "bench_encode": "encoders.autotune.benchmark:bench_encode",
    "build_index": "search.api:build_index",
    "combine": "search.api:combine",
    "compare": "evaluation.compare.compare:compare",
    "datasets": "corpora.catalog.descriptions:datasets",
    "delete": "indexing.api:delete",
    "describe": "indexing.describe:describe",
    "describe_folder": "distill.inventory:describe_folder",
    "distill": "distill",
    "evaluate": "evaluation.evaluate:evaluate",
    "evaluate_index": "evaluation.evaluate_index:evaluate_index",
    "evaluate_sts": "evaluation.sts:evaluate_sts",
    "evaluate_suite": "evaluation.suite:evaluate_suite",
    "export": "indexing.api:export",
    "import_vectors": "search.api:import_vectors",
    "inventory": "distill.inventory:inventory",
    "open_corpus": "corpora.spec:open_corpus",
    "open_index": "evaluation.evaluate_index:open_index",
    "open_qrels": "corpora.spec:open_qrels",
    "open_queries": "corpora.spec:open_queries",
    "push": "distill.output.publishing:push",
    "read_run": "search.runs.run_files:read_run",
    "write_run": "search.runs.run_files:write_run",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value: Any = importlib.import_module(f"{__name__}.{module}")
    if attribute:  # `distill` is a folder that is called like a function.
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
