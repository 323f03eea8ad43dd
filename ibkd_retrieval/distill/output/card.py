"""The README of a student's folder: what it is, how it compares with its teacher, how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ibkd_retrieval.distill.config import RECORD

if TYPE_CHECKING:
    from ibkd_retrieval.distill.output.report import EncoderFacts, StudentReport
    from ibkd_retrieval.distill.recipe import DistillSettings, FinetuneSettings
    from ibkd_retrieval.distill.training.loop import DevPoint


def _made(report: StudentReport) -> str:
    if report.stage == "finetune":
        return f"fine-tuned beside its teacher `{report.teacher.name}`"
    then = " and fine-tuned on pairs of query and passage" if report.finetuning else ""
    return f"distilled from `{report.teacher.name}` with the objective `{report.settings.objective}`{then}"


def _training(report: StudentReport) -> str:
    settings, said = report.settings, []
    if report.stage != "finetune":
        queries = f" and `{report.queries}`" if report.queries else ""
        said.append(
            f"Trained on {report.texts:,} unlabelled texts of `{report.corpus}`{queries} (fingerprint "
            f"`{report.fingerprint[:16]}`) for {_steps(report.history, settings)} of "
            f"{settings.batch_size * settings.accumulate} texts, {report.train_seconds:.0f} s, seed {settings.seed}."
        )
        if settings.merge:
            said.append(f"Its weights are merged: {settings.merge:.0%} of those before, the rest of the trained ones.")
    if settings.dims:
        said.append(f"Its vectors may be cut to {', '.join(map(str, settings.dims[1:]))} dimensions.")
    if (second := report.finetuning) is not None:
        said.append(
            f"Fine-tuned on {second.queries:,} queries of `{second.pairs}` with their passages and "
            f"{second.negatives_a_query:.3g} hard negatives each on average, of which a step draws up to "
            f"{second.settings.negatives} (fingerprint `{second.fingerprint[:16]}`) for "
            f"{_steps(second.history, second.settings)} of {second.settings.batch_size * second.settings.accumulate} "
            f"queries, {second.seconds:.0f} s."
        )
    return "\n".join(said)


def _steps(history: Sequence[DevPoint], settings: DistillSettings | FinetuneSettings) -> str:
    """How many were run, and whose weights were kept."""
    evaluated = [point for point in history if point.step]
    # With patience the weights of the best evaluation, the first of equals, are kept; without it the last.
    kept = max(evaluated, key=lambda point: point.value).step if settings.patience else settings.steps
    ran = evaluated[-1].step if settings.patience else settings.steps
    return f"{ran:,} steps" + (f" (the weights after step {kept:,} were kept)" if kept != ran else "")


def _rows(report: StudentReport) -> list[tuple[str, str, str, str]]:
    """The table: teacher, student before distillation, student."""
    teacher, student = report.teacher, report.student

    def share(dev: float) -> str:
        return f" ({dev / teacher.dev:.1%})" if teacher.dev else ""

    # Before distillation the quality alone was measured: what is saved may have a layer more, or fewer dimensions.
    def counted(label: str, count: Callable[[EncoderFacts], float]) -> tuple[str, str, str, str]:
        return label, f"{count(teacher):,.0f}", "", f"{count(student):,.0f}"

    before = f"{report.undistilled_dev:.4f}{share(report.undistilled_dev)}"
    rows = [(f"{report.dev_metric} (dev)", f"{teacher.dev:.4f}", before, f"{student.dev:.4f}{share(student.dev)}")]
    rows += [(f"... cut to {dim} dimensions", "", "", f"{v:.4f}{share(v)}") for dim, v in report.shorter_dev.items()]
    faster = student.texts_per_second / max(teacher.texts_per_second, 1e-9)
    return [
        *rows,
        counted("dimensions", lambda each: each.dim),
        counted("parameters", lambda each: each.embedding_parameters + each.transformer_parameters),
        counted("... in token tables", lambda each: each.embedding_parameters),
        counted("... in layers", lambda each: each.transformer_parameters),
        (
            *counted("texts/s while encoding", lambda each: each.texts_per_second)[:3],
            f"{student.texts_per_second:,.0f} ({faster:.1f} × the teacher's)",
        ),
    ]


def model_card(report: StudentReport, name: str) -> str:
    """The folder's README: what the student is, how it compares, how it was made."""
    teacher, student = report.teacher, report.student
    kept = student.dev / teacher.dev if teacher.dev else float("nan")
    table = "\n".join(f"| {' | '.join(row)} |" for row in _rows(report))
    machine = report.environment
    where = machine.accelerator or f"{machine.cpu}, {machine.threads} threads"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, dense-retrieval, distillation]
---

# {name}

A text encoder with {student.dim} dimensions, {_made(report)}.
It keeps {kept:.1%} of its teacher's {report.dev_metric} on the dev set that was watched while training; test figures
are for you to take on your own data (`ibkd compare`).

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode(["a text"])
```

| | teacher | student before distillation | student |
|---|---|---|---|
{table}

Quality: {report.dev_metric} on the dev set, {report.dev_set}, by exact search. Speed: the same texts, each encoder in
turn, on {where}; compare the figures with each other only.

{_training(report)} Every setting and version is in `{RECORD}`.

Method: *Text Representation Distillation via Information Bottleneck Principle*, arXiv 2311.05472.
"""
