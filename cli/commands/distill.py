"""`ibkd distill`: teacher to student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..display.console import print_json, reporter, stdout
from ..options import distill as options
from ..options.common import MODELS, Device, Dtype, Json, Overwrite, Quiet, Resume, Seed, given_options

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.distill.data.pairs import PairSet
    from ibkd_retrieval.distill.output.student_folder import StudentReport
    from ibkd_retrieval.progress import Progress


_TEACHERS = ["all-MiniLM-L6-v2"]


def distill(
    context: typer.Context,
    teacher: options.Teacher = _TEACHERS,
    student: options.Student = None,
    layers: options.Layers = None,
    dim: options.Dim = None,
    dims: options.Dims = None,
    pooling: options.Pooling = None,
    freeze_embeddings: options.FreezeEmbeddings = None,
    output_space: options.OutputSpace = "student",
    corpus: options.CorpusOption = "pydocs:train",
    queries: options.QueriesOption = None,
    dev: options.Dev = None,
    max_length: options.MaxLength = 96,
    max_documents: options.MaxDocuments = None,
    objective: options.Objective = None,
    projection: options.ProjectionOption = "auto",
    steps: options.Steps = 500,
    batch_size: options.BatchSize = 256,
    accumulate: options.Accumulate = 1,
    bank_size: options.BankSize = 4096,
    learning_rate: options.LearningRate = None,
    merge: options.Merge = None,
    temperature: options.Temperature = None,
    hsic_weight: options.HsicWeight = 0.2,
    hsic_bandwidth: options.HsicBandwidth = "median",
    hsic_estimator: options.HsicEstimator = "biased",
    pairs: options.Pairs = None,
    finetune_steps: options.FinetuneSteps = 500,
    finetune_batch_size: options.FinetuneBatchSize = 128,
    finetune_learning_rate: options.FinetuneLearningRate = 2e-5,
    finetune_temperature: options.FinetuneTemperature = 0.05,
    finetune_hsic_weight: options.FinetuneHsicWeight = 1.0,
    negatives: options.Negatives = 1,
    negative_ranks: options.NegativeRanks = "10-100",
    negative_margin: options.NegativeMargin = 0.05,
    soft_labels: options.SoftLabels = None,
    soft_weight: options.SoftWeight = 1.0,
    stage: options.Stage = "distill",
    preset: options.Preset = None,
    eval_every: options.EvalEvery = 200,
    patience: options.Patience = 0,
    checkpoint_every: options.CheckpointEvery = 100,
    tensorboard: options.TensorBoard = False,
    output: options.Output = None,
    cache: options.Cache = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher into a small student with IBKD, fine-tune it on pairs, or both; writes a model folder."""
    from ibkd_retrieval.corpora.spec import open_corpus, open_queries
    from ibkd_retrieval.distill.config import DistillSettings, FinetuneSettings, paper_finetuning
    from ibkd_retrieval.distill.data.hard_negatives import MiningSettings
    from ibkd_retrieval.distill.defaults import (
        check_stage,
        usual_learning_rate,
        usual_merge,
        usual_objective,
        with_preset,
    )
    from ibkd_retrieval.distill.objectives.base import ObjectiveSettings
    from ibkd_retrieval.distill.output.folder import prepare_output
    from ibkd_retrieval.distill.pipeline import distill as run
    from ibkd_retrieval.distill.plan import StudentPlan
    from ibkd_retrieval.distill.teacher.cache import TEACHERS
    from ibkd_retrieval.distill.training import distributed as ranks
    from ibkd_retrieval.files import cache_folder

    given = given_options(context)
    nested = _numbers("--dims", dims)
    embedded = corpus.split(":")[0] == "pydocs"
    if embedded:
        queries = queries or "pydocs:train"
        dev = dev or "pydocs:train"
    if student is None:
        layers, dim = layers or "2", dim if dim is not None or nested else 128
    plan = StudentPlan(student, _layers(layers), dim or None, pooling)
    settings = DistillSettings(
        objective=objective or usual_objective(plan, output_space),
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        bank_size=bank_size,
        learning_rate=learning_rate if learning_rate is not None else usual_learning_rate(plan, output_space),
        freeze_embeddings=student is None if freeze_embeddings is None else freeze_embeddings,
        max_length=max_length,
        seed=seed,
        dtype=dtype,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
        dims=nested,
        output_space=output_space,
        projection=projection,
        merge=merge if merge is not None else usual_merge(plan, output_space),
        objective_settings=ObjectiveSettings(temperature, hsic_weight, _bandwidth(hsic_bandwidth), hsic_estimator),
    )
    settings = with_preset(settings, preset, plan, given)
    finetuning = FinetuneSettings(
        steps=finetune_steps,
        batch_size=finetune_batch_size,
        accumulate=accumulate,
        negatives=negatives,
        learning_rate=finetune_learning_rate,
        temperature=finetune_temperature,
        hsic_weight=finetune_hsic_weight,
        hsic_bandwidth=settings.objective_settings.hsic_bandwidth,
        hsic_estimator=hsic_estimator,
        soft_labels=soft_labels,
        soft_weight=soft_weight,
        mining=MiningSettings(*_range("--negative-ranks", negative_ranks), margin=negative_margin),
        freeze_embeddings=settings.freeze_embeddings,
        max_length=settings.max_length,
        seed=seed,
        dtype=dtype,
        dims=nested,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
    )
    if preset == "paper":
        # What both stages share goes by its own name, what stage 2 has for itself by `finetune_...`.
        shared = given & {"hsic_bandwidth", "hsic_estimator", "max_length"}
        of_stage_2 = {name.removeprefix("finetune_") for name in given if name.startswith("finetune_")}
        finetuning = paper_finetuning(finetuning, shared | of_stage_2)
    options.check_given(given, stage)
    options.check_effect(given, finetuning)
    check_stage(stage, settings, pairs, len(teacher))
    target = output or MODELS / plan.name(teacher[0], _SUFFIX[stage].format(settings.objective))
    # Told now and not after minutes of reading text.
    if ranks.is_first():
        prepare_output(target, resume=resume, overwrite=overwrite)
    progress = reporter(quiet or not ranks.is_first())
    progress.say(
        f"teacher {' + '.join(teacher)} → student {target} · corpus {corpus}"
        + (f" · queries {queries}" if queries else "")
    )
    if idle := options.without_effect(given, stage, settings.objective):
        progress.say(idle)
    # Collections may have to be downloaded first, once.
    with ranks.in_turn():
        found, pair_corpus = _open_pairs(pairs, progress) if pairs else (None, None)
        to_learn, to_learn_queries = open_corpus(corpus, progress), open_queries(queries) if queries else None
        dev_corpus = open_corpus(_corpus_of(dev), progress) if dev else None
        dev_queries = open_queries(dev, need_judgements=True) if dev else None
    report = run(
        teacher_name=teacher[0],
        further_teachers=teacher[1:],
        plan=plan,
        corpus=to_learn,
        queries=to_learn_queries,
        settings=settings,
        stage=stage,
        finetuning=finetuning,
        pairs=found,
        pair_corpus=pair_corpus,
        output=target,
        cache_root=cache or cache_folder() / TEACHERS,
        dev_corpus=dev_corpus,
        dev_queries=dev_queries,
        max_documents=max_documents,
        device=device,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
        progress=progress,
    )
    if not ranks.is_first():
        return
    if json:
        print_json(report.as_dict() | {"output": str(target)})
        return
    stdout().print(f"{target}: {_sentence(report)}")


_SUFFIX = {"distill": "{}", "finetune": "finetuned", "both": "{}-finetuned"}


def _open_pairs(spec: str, progress: Progress) -> tuple[PairSet, Corpus | None]:
    """Pairs from a file, or judged queries with the passages of their own corpus, which negatives come from too."""
    from ibkd_retrieval.corpora.spec import open_corpus, open_queries
    from ibkd_retrieval.distill.data.pairs import judged_pairs, read_pairs

    if Path(spec).is_file():
        return read_pairs(Path(spec).resolve()), None
    corpus = open_corpus(_corpus_of(spec), progress)
    return judged_pairs(corpus, open_queries(spec, need_judgements=True), progress), corpus


def _sentence(report: StudentReport) -> str:
    teacher, student = report.teacher, report.student
    kept = f" = {student.dev / teacher.dev:.1%} of the teacher's {teacher.dev:.4f}" if teacher.dev else ""
    return (
        f"dev {report.dev_metric} {student.dev:.4f}{kept} (before distillation {report.undistilled_dev:.4f}), "
        f"{student.dim} dimensions instead of {teacher.dim}, "
        f"{student.texts_per_second / teacher.texts_per_second:.1f} × as fast"
    )


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


def _range(option: str, text: str) -> tuple[int, int]:
    from ibkd_retrieval.errors import UserError

    first, _, last = text.partition("-")
    try:
        return int(first), int(last)
    except ValueError as error:
        raise UserError(f"{option} {text}: give a range of ranks such as 10-100.") from error


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
