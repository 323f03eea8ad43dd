"""`ibkd distill`: teacher to student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import reporter, stdout
from .options import CORPUS_HELP, MODELS, Device, Dtype, Json, Overwrite, Quiet, Resume, Seed

if TYPE_CHECKING:
    from ibkd_retrieval.distill.model_folder import StudentReport


def distill(
    teacher: Annotated[
        str, typer.Option(metavar="MODEL", help="Encoder to learn from: folder or hub name.")
    ] = "all-MiniLM-L6-v2",
    student: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A small model to train.", show_default="layers of the teacher")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="How many layers of the teacher (or of --student), evenly spaced, or positions: 0,3,5.",
            show_default="2 without --student",
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(help="Dimensions of the student's vectors.", show_default="128 without --student, else its own"),
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(
            help="Lengths at which the vectors are to be usable when cut, the full one first: 128,64,32.",
            show_default="the full one",
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="mean or cls, for a plain transformers student.", show_default="mean")
    ] = None,
    corpus: Annotated[
        str, typer.Option(metavar="CORPUS", help=f"Documents to learn from, as unlabelled text: {CORPUS_HELP}")
    ] = "pydocs:train",
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="QUERIES",
            help="Queries to learn from, as unlabelled text.",
            show_default="pydocs:train with pydocs",
        ),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option(
            metavar="QUERIES",
            help="Judged queries to watch (BEIR folder:split, ir_datasets id).",
            show_default="pydocs:train with pydocs, else neighbours of the teacher among held-out texts",
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="ibkd, infonce, mse, cosine, crd, hpd or kl.")] = "ibkd",
    preset: Annotated[
        str | None, typer.Option(help="paper: the published settings of the method.", show_default="none")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 500,
    batch_size: Annotated[int, typer.Option(help="Texts in a batch.")] = 256,
    accumulate: Annotated[
        int, typer.Option(help="Batches a step, their losses averaged; negatives stay those of one batch and the bank.")
    ] = 1,
    bank_size: Annotated[int, typer.Option(help="Further teacher vectors a step, as negatives.")] = 4096,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="0.002, with --student 0.0003")
    ] = None,
    freeze_embeddings: Annotated[
        bool | None,
        typer.Option(
            "--freeze-embeddings/--train-embeddings",
            help="Leave the student's token tables as they are.",
            show_default="freeze, with --student train",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the contrast; smaller looks harder at near negatives.")] = 0.05,
    hsic_weight: Annotated[float, typer.Option(help="Weight of the forgetting term (lambda).")] = 0.2,
    hsic_bandwidth: Annotated[str, typer.Option(help="median, or gamma as a number.")] = "median",
    hsic_estimator: Annotated[
        str, typer.Option(help="biased (as published), unbiased, or cka (normalised).")
    ] = "biased",
    max_length: Annotated[int, typer.Option(help="Tokens read of a training text.")] = 96,
    max_documents: Annotated[
        int | None, typer.Option(help="Most documents to learn from, drawn at random.", show_default="all")
    ] = None,
    output_space: Annotated[
        str, typer.Option(help="student: compact vectors; teacher: vectors that search the teacher's index.")
    ] = "student",
    eval_every: Annotated[int, typer.Option(help="Steps between looks at the dev set.")] = 200,
    patience: Annotated[
        int, typer.Option(help="End after so many looks without a better figure, with the best weights; 0: never.")
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log to <output>/tensorboard.")] = False,
    output: Annotated[Path | None, typer.Option(help="Model folder to make.", show_default="models/<name>")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where teacher vectors are kept.", show_default="~/.cache/ibkd/teachers")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher into a small student with IBKD; writes a sentence-transformers folder."""
    from ibkd_retrieval.corpora.resolve import open_corpus, open_queries
    from ibkd_retrieval.distill.objectives.base import ObjectiveSettings
    from ibkd_retrieval.distill.run import StudentPlan, prepare_output
    from ibkd_retrieval.distill.run import distill as run
    from ibkd_retrieval.distill.settings import DistillSettings, paper_preset
    from ibkd_retrieval.errors import UserError

    nested = _numbers("--dims", dims)
    embedded = corpus.split(":")[0] == "pydocs"
    if embedded:
        queries = queries or "pydocs:train"
        dev = dev or "pydocs:train"
    if student is None:
        layers, dim = layers or "2", dim if dim is not None else (nested[0] if nested else 128)
    plan = StudentPlan(student, _layers(layers), dim or None, pooling)
    settings = DistillSettings(
        objective=objective,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        bank_size=bank_size,
        learning_rate=learning_rate if learning_rate is not None else 2e-3 if student is None else 3e-4,
        freeze_embeddings=student is None if freeze_embeddings is None else freeze_embeddings,
        max_length=max_length,
        seed=seed,
        dtype=dtype,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
        dims=nested,
        output_space=output_space,
        objective_settings=ObjectiveSettings(temperature, hsic_weight, _bandwidth(hsic_bandwidth), hsic_estimator),
    )
    if preset is not None:
        if preset != "paper":
            raise UserError(f"Unknown preset `{preset}`: use paper.")
        settings = paper_preset(settings)
    target = output or MODELS / plan.name(teacher, settings.objective)
    # Told now and not after minutes of reading text.
    prepare_output(target, resume=resume, overwrite=overwrite)
    progress = reporter(quiet)
    progress.say(
        f"teacher {teacher} → student {target} · corpus {corpus}" + (f" · queries {queries}" if queries else "")
    )
    report = run(
        teacher_name=teacher,
        plan=plan,
        corpus=open_corpus(corpus, progress),
        queries=open_queries(queries) if queries else None,
        settings=settings,
        output=target,
        cache_root=cache or teacher_cache_root(),
        dev_corpus=open_corpus(_corpus_of(dev), progress) if dev else None,
        dev_queries=open_queries(dev, need_judgements=True) if dev else None,
        max_documents=max_documents,
        device=device,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
        progress=progress,
    )
    if json:
        import json as encoder

        stdout().print(encoder.dumps(report.as_dict() | {"output": str(target)}), markup=False, soft_wrap=True)
        return
    stdout().print(f"{target}: {_sentence(report)}", markup=False)


def _sentence(report: StudentReport) -> str:
    teacher, student = report.teacher, report.student
    kept = f" = {student.dev / teacher.dev:.1%} of the teacher's {teacher.dev:.4f}" if teacher.dev else ""
    return (
        f"dev {report.dev_metric} {student.dev:.4f}{kept} (before distillation {report.undistilled_dev:.4f}), "
        f"{student.dim} dimensions instead of {teacher.dim}, "
        f"{student.texts_per_second / teacher.texts_per_second:.1f} × as fast"
    )


def teacher_cache_root() -> Path:
    """The folder below which teacher vectors are kept, by the XDG convention."""
    import os

    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ibkd" / "teachers"


def _layers(text: str | None) -> int | tuple[int, ...] | None:
    from ibkd_retrieval.errors import UserError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",")) if "," in text else int(text)
    except ValueError as error:
        raise UserError(f"--layers {text}: give a number, or positions such as 0,3,5.") from error


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    from ibkd_retrieval.errors import UserError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise UserError(f"{option} {text}: give numbers with commas between, such as 128,64,32.") from error


def _bandwidth(text: str) -> float | str:
    from ibkd_retrieval.errors import UserError

    if text == "median":
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UserError(f"--hsic-bandwidth {text}: give median or a number above 0.")
    return value


def _corpus_of(queries: str) -> str:
    """The corpus that a set of dev queries is judged on: the same name, without the split of a BEIR folder."""
    folder, _, _ = queries.rpartition(":")
    return folder if folder and Path(folder).is_dir() else queries
