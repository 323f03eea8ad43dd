"""The distillation pipeline: from a teacher and text to a finished model folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.synthetic import SYNTHETIC, write_queries
from ibkd_retrieval.distill.defaults import check_stage, recorded
from ibkd_retrieval.distill.output.folder import (
    CHECKPOINTS,
    FINETUNING,
    clear_unfinished,
    full_disk_error,
    prepare_output,
    save_plain,
    save_student,
    settle_output,
)
from ibkd_retrieval.distill.output.report import EncoderFacts, FinetuneFacts, StudentReport, final_figures
from ibkd_retrieval.distill.preparing import (
    Job,
    JobData,
    Models,
    complete_student,
    load_models,
    read_data,
    with_vocabulary,
)
from ibkd_retrieval.distill.student import FinishedModel, finished_model
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.checkpoint import list_checkpoints, read_state
from ibkd_retrieval.distill.training.log import require_tensorboard
from ibkd_retrieval.distill.training.loop import LoopResult, StageRun
from ibkd_retrieval.distill.training.stage1 import check_enough, step_seconds, train_student
from ibkd_retrieval.distill.training.stage2 import FinetuneResult, finetune_student, mined
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.writing import only_writer

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import Kind


@dataclass(frozen=True)
class _Trained:
    """The finished model, and the result of each stage that ran."""

    final: FinishedModel
    distilled: LoopResult | None
    finetuned: FinetuneResult | None


def distill_student(job: Job) -> StudentReport:
    """Distil a teacher into a student, fine-tune it on pairs, or both, and write the student's folder.

    Processes connected by `ranks.join` all call this function and get the same report. Only the first one writes.

    Raises:
        UserError: an input is invalid, or another process writes to the output.
        WorkFailed: training failed, or the disk is full.
        MissingPackage: `tensorboard` is set and the package is not installed.
    """
    check_stage(job.config, job.pairs)
    began = time.monotonic()
    with contextlib.nullcontext() if job.held else held(job), full_disk_error(job.output):
        job, models, data = _prepared(job)
        job = _with_steps(job, models, data)
        trained = _train(job, models, data)
        report = _report(job, models, data, trained)
        if ranks.is_first():
            save_student(trained.final.model, trained.final.to_teacher, report, job.output)
    job.progress.say(_cost(report, time.monotonic() - began))
    return report


def prepare_for_nodes(job: Job) -> None:
    """Do what precedes training, so that other processes with the same cache and output can train.

    The teacher's vectors are in the cache then, and the hard negatives beside it.

    Raises:
        UserError: an input is invalid.
        WorkFailed: the nodes cannot encode, or the disk is full.
    """
    check_stage(job.config, job.pairs)
    job, models, data = _prepared(job)
    if job.config.stage != "finetune":
        for texts, kind in ((data.texts.documents, "document"), (data.texts.queries, "query")):
            models.cache.rows(texts, cast("Kind", kind), job.progress)
    if data.pairs is not None:
        mined(data.pairs, job.pair_corpus or job.corpus, models.cache, job.config.finetuning, data.dev, job.progress)


def _prepared(job: Job) -> tuple[Job, Models, JobData]:
    """The models and the data. Errors are raised before the teacher encodes a corpus."""
    job = _as_begun(job)
    if job.tensorboard:
        require_tensorboard()
    job, models = load_models(job)
    data = read_data(job, models)
    models = with_vocabulary(job, models, data)
    complete_student(job.config, models.student, data.texts)
    if job.config.stage != "finetune":
        check_enough(data.texts, job.config.training.batch_size)
    if ranks.is_first() and not job.held:
        if job.keep_undistilled is not None:
            save_plain(models.student, job.keep_undistilled)
        if job.overwrite:
            clear_unfinished(job.output)
        if data.synthetic:
            write_queries(data.synthetic, job.output / CHECKPOINTS / SYNTHETIC)
    return job, models, data


def _as_begun(job: Job) -> Job:
    """The job with what the run that it resumes had chosen, unless it is given.

    This is the steps that fitted its minutes, the learning rate and the regression weight: 0.1.0 had other defaults.
    """
    checkpoints = list_checkpoints(job.output / CHECKPOINTS) if job.resume and job.config.stage != "finetune" else []
    if not checkpoints:
        return job
    begun = read_state(checkpoints[-1])["identity"]["settings"]
    kept: dict[str, Any] = {"steps": begun["steps"], "minutes": None} if job.config.training.minutes else {}
    if job.given is not None:
        values, given = begun | begun["objective_settings"], job.given.given()
        names = {"learning_rate", "regression_weight"} & values.keys() - given
        kept |= {name: values[name] for name in names}
    return replace(job, config=job.config.with_parameters(**kept))


def _with_steps(job: Job, models: Models, data: JobData) -> Job:
    """The job with the steps that fit its minutes, if it has any."""
    minutes = job.config.training.minutes
    if minutes is None or job.config.stage == "finetune":
        return job
    seconds = step_seconds(models.student, models.cache, data.texts, job.config, job.progress)
    steps = max(1, round(60 * minutes / seconds))
    passes = steps * job.config.training.batch_size * job.config.training.accumulate / len(data.texts)
    job.progress.say(
        f"a step takes {seconds:.2g} s: {steps} steps in {minutes:g} minutes, which read all texts {passes:.1f} times"
    )
    return replace(job, config=job.config.with_parameters(steps=steps, minutes=None))


def _cost(report: StudentReport, seconds: float) -> str:
    """A sentence with the time of each stage, and the peak memory of the process."""
    tuned = report.finetuning.seconds if report.finetuning else 0.0
    stages = {"distilling": report.train_seconds if report.stage != "finetune" else 0.0, "fine-tuning": tuned}
    parts = [f"{spent:.0f} s {name}" for name, spent in stages.items() if spent]
    # The seconds of a stage include those before a resume.
    rest = max(0.0, seconds - sum(stages.values()))
    parts.append(f"{rest:.0f} s reading, teacher vectors, evaluating and saving")
    memory = f"; peak memory {peak / 1e9:.1f} GB" if (peak := _peak_memory()) else ""
    return f"took {', '.join(parts)}{memory}"


def _peak_memory() -> int:
    """The peak memory of the process in bytes, or 0 if the system does not report it."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def held(job: Job) -> Iterator[None]:
    """Prepare the output folder of a job, and keep other processes from writing to it.

    Raises:
        UserError: another process writes to it, or it may not be written.
    """
    if not ranks.is_first():
        yield
        return
    output = job.output
    if output.exists() and not output.is_dir():
        prepare_output(output, resume=job.resume, overwrite=job.overwrite)
    with only_writer(output, make=True, say=job.progress.say):
        settle_output(output)
        prepare_output(output, resume=job.resume, overwrite=job.overwrite)
        yield


def _train(job: Job, models: Models, data: JobData) -> _Trained:
    """Run the stages of the job."""
    config, origin = job.config, models.origin
    final, distilled, finetuned = FinishedModel(models.student, None), None, None
    if config.stage != "finetune":
        job.progress.say(
            f"learning from {len(data.texts.documents):,} documents and {len(data.texts.queries):,} queries; "
            f"watching {data.dev.metric} on {len(data.dev.texts):,} held-out texts"
        )
        stage = _stage(job, CHECKPOINTS, origin, "distilling")
        distilled = train_student(models.student, models.cache, data.texts, data.dev, config, stage)
        final = finished_model(models.student, distilled.projection, config)
        origin = _distilled(origin, config, data.texts.fingerprint)
    if data.pairs is not None:
        stage, corpus = _stage(job, FINETUNING, origin, "finetuning"), job.pair_corpus or job.corpus
        finetuned = finetune_student(final.model, models.cache, data.pairs, corpus, data.dev, config, stage)
        final = FinishedModel(final.model, None)
    return _Trained(final, distilled, finetuned)


def _distilled(origin: str, config: DistillConfig, texts: str) -> str:
    """The origin of a model that stage 1 distilled. Stage 2 of 0.1.0, which had no regression, resumes by it."""
    record = config.distilling_record()
    if not record["objective_settings"]["regression_weight"]:
        del record["objective_settings"]["regression_weight"]
    return f"{origin}, distilled with {record} from {texts}"


def _stage(job: Job, folder: str, origin: str, events: str) -> StageRun:
    tensorboard = job.output / "tensorboard" / events if job.tensorboard else None
    return StageRun(job.output / folder, origin, job.resume, tensorboard, job.progress)


def _report(job: Job, models: Models, data: JobData, trained: _Trained) -> StudentReport:
    """Measure the finished student and its teacher, and make the report."""
    config, dev = job.config, data.dev
    dims, dtype = config.student.dims, config.training.dtype
    figures = final_figures(trained.final.model, str(job.output), models.teacher, dev, dims, dtype)
    loops = [trained.distilled] if trained.distilled else []
    loops += [trained.finetuned.loop] if trained.finetuned else []
    if not np.isfinite(loops[-1].dev):
        raise UserError(f"The dev {dev.metric} of the student is no number: give another `student` or `dev`.")
    return StudentReport(
        teacher=EncoderFacts.of(models.teacher, figures.teacher_dev, figures.teacher_speed),
        student=EncoderFacts.of(figures.student, loops[-1].dev, figures.student_speed),
        undistilled_dev=loops[0].history[0].value,
        shorter_dev=figures.shorter_dev,
        dev_metric=dev.metric,
        dev_set=dev.name,
        stage=config.stage,
        history=loops[0].history,
        corpus=job.corpus.name,
        queries=job.queries.name if job.queries else None,
        texts=len(data.texts),
        fingerprint=data.texts.fingerprint,
        origin=f"{config.student} of {config.teachers[0]}",
        settings=config.distilling_record(),
        finetuning=_finetune_facts(config, data.pairs, trained.finetuned),
        train_seconds=loops[0].seconds,
        texts_per_second=loops[0].texts_per_second,
        environment=read_environment(),
        config=recorded(job.given, config).to_json() if job.given else None,
    )


def _finetune_facts(
    config: DistillConfig, pairs: PairSet | None, result: FinetuneResult | None
) -> FinetuneFacts | None:
    if result is None or pairs is None:
        return None
    return FinetuneFacts(
        pairs=pairs.name,
        queries=result.pairs,
        negatives_a_query=result.negatives_a_query,
        fingerprint=result.fingerprint,
        settings=config.finetuning_record(),
        history=result.loop.history,
        seconds=result.loop.seconds,
    )
