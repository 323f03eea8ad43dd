"""The distillation pipeline: from a teacher and text to a finished model folder."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.synthetic import SYNTHETIC, synthetic_queries, write_queries
from ibkd_retrieval.distill.data.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.defaults import check_stage, decided, projection_for, usual_learning_rate
from ibkd_retrieval.distill.dev_metric import Dev, TeacherSpaceDev, judged_dev, neighbour_dev
from ibkd_retrieval.distill.objectives import build_objective, check_dims
from ibkd_retrieval.distill.objectives.base import Sizes
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
from ibkd_retrieval.distill.recipe import STATIC, DistillSettings, FinetuneSettings, StudentPlan
from ibkd_retrieval.distill.student import (
    FinishedModel,
    check_freezing,
    check_length,
    ends_in_linear,
    finished_model,
    initial_student,
    read_as_much,
    transformer_width,
    without_forgetting,
)
from ibkd_retrieval.distill.teacher.cache import TeacherCache, TeacherVectors
from ibkd_retrieval.distill.teacher.joint import JointCache, JointTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.checkpoint import list_checkpoints, read_state
from ibkd_retrieval.distill.training.log import require_tensorboard
from ibkd_retrieval.distill.training.loop import LoopResult
from ibkd_retrieval.distill.training.stage1 import check_enough, train_student
from ibkd_retrieval.distill.training.stage2 import FinetuneResult, finetune_student, usable_pairs
from ibkd_retrieval.encoders.device import choose_device, read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer, short_model_name
from ibkd_retrieval.encoders.students import add_output_layer, is_static, reduce_dimension
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.writing import only_writer
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DEV_QUERIES = 300
_DEV_DOCUMENTS = 2000
_DEV_NEIGHBOURS = 500
_START_SAMPLE = 2048


@dataclass(frozen=True)
class Job:
    """A distillation job: its data is open and its recipe is decided.

    Attributes:
        teacher_name: the teacher.
        plan: how the student is initialised.
        corpus: training documents, used as unlabelled text.
        queries: training queries, used as unlabelled text. None uses documents only.
        settings: the recipe of stage 1. Its length, dtype, seed and dims apply to both stages.
        output: the model folder to write. It holds checkpoints until it is finished.
        cache_root: folder of the teachers' caches.
        further_teachers: additional teachers, whose vectors are appended to the first's.
        stage: "distill" for stage 1, "finetune" for stage 2, "both".
        finetuning: the recipe of stage 2, if it runs.
        pairs: the training pairs of stage 2.
        pair_corpus: the corpus in which hard negatives are mined. None mines in `corpus`.
        dev_corpus: the corpus of `dev_queries`.
        dev_queries: judged queries of the dev set. None measures overlap with the teacher's neighbours on held-out
            texts.
        max_documents: maximum number of training documents, drawn at random.
        synthetic_queries: queries made of each training document.
        device: the device to train on.
        resume: continue an unfinished `output`.
        overwrite: replace a finished or unfinished `output`.
        keep_undistilled: folder in which the untrained student is saved too.
        tensorboard: also log to TensorBoard, in `output`/tensorboard.
        config: the configuration of the recipe, to be recorded.
        progress: receives progress reports.
    """

    teacher_name: str
    plan: StudentPlan
    corpus: Corpus
    queries: QuerySet | None
    settings: DistillSettings
    output: Path
    cache_root: Path
    further_teachers: Sequence[str] = ()
    stage: str = "distill"
    finetuning: FinetuneSettings | None = None
    pairs: PairSet | None = None
    pair_corpus: Corpus | None = None
    dev_corpus: Corpus | None = None
    dev_queries: QuerySet | None = None
    max_documents: int | None = None
    synthetic_queries: int = 0
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    keep_undistilled: Path | None = None
    tensorboard: bool = False
    config: DistillConfig | None = None
    progress: Progress = SILENT


@dataclass(frozen=True)
class _Models:
    """The student, its teacher and the target vectors.

    Attributes:
        student: the untrained student, on its device.
        teacher: the teacher with its own maximum length, for evaluation.
        cache: the target vectors. The teacher reads no more tokens of a text than the student does.
        sizes: dimensions of the finished student and of the teacher.
        origin: how the student was made. A resumed run must have the same origin.
    """

    student: SentenceTransformer
    teacher: Encoder | JointTeacher
    cache: TeacherVectors
    sizes: Sizes
    origin: str


@dataclass(frozen=True)
class _Data:
    """The training data and the dev set."""

    texts: TrainingTexts
    dev: Dev
    pairs: PairSet | None


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
    check_stage(job.stage, job.settings, job.pairs, teachers=1 + len(job.further_teachers))
    began = time.monotonic()
    with _held(job.output), full_disk_error(job.output):
        if ranks.is_first():
            settle_output(job.output)
            prepare_output(job.output, resume=job.resume, overwrite=job.overwrite)
        job = _as_begun(job)
        if job.tensorboard:
            require_tensorboard()
        # Errors are raised before the teacher encodes a corpus, and before an old student is replaced.
        job, models = _load_models(job)
        data = _read_data(job, models)
        _complete_student(job, models, data)
        if job.stage != "finetune":
            check_enough(data.texts, job.settings)
        if job.keep_undistilled is not None and ranks.is_first():
            save_plain(models.student, job.keep_undistilled)
        if job.overwrite and ranks.is_first():
            clear_unfinished(job.output)
        trained = _train(job, models, data)
        report = _report(job, models, data, trained)
        if ranks.is_first():
            save_student(trained.final.model, trained.final.to_teacher, report, job.output)
    job.progress.say(_cost(report, time.monotonic() - began))
    return report


def _as_begun(job: Job) -> Job:
    """The job with the regression weight of the run that it resumes, unless one is given: 0.1.0 had another default."""
    checkpoints = list_checkpoints(job.output / CHECKPOINTS) if job.resume and job.stage != "finetune" else []
    if not checkpoints or job.config is None or job.config.objective.regression_weight is not None:
        return job
    begun = read_state(checkpoints[-1])["identity"]["settings"]["objective_settings"]["regression_weight"]
    terms = replace(job.settings.objective_settings, regression_weight=begun)
    return replace(job, settings=replace(job.settings, objective_settings=terms))


def _cost(report: StudentReport, seconds: float) -> str:
    """A sentence with the time of each stage and the peak memory of the process."""
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


@contextmanager
def _held(output: Path) -> Iterator[None]:
    if not ranks.is_first() or (output.exists() and not output.is_dir()):
        yield
        return
    with only_writer(output, make=True):
        yield


def _load_models(job: Job) -> tuple[Job, _Models]:
    """Load the teachers, initialise the student, and make the choices that depend on them."""
    plan, settings, finetuning = job.plan, job.settings, job.finetuning
    device = ranks.local_device(choose_device(job.device))
    teacher = load_sentence_transformer(job.teacher_name, device=device)
    if settings.dims and plan.dim is None and plan.model == STATIC:
        plan = replace(plan, dim=settings.dims[0])
    student = initial_student(plan, teacher, job.teacher_name, device)
    ranks.same_weights({"student": student})
    made_of = weight_hash(student)
    check_length(student, settings.max_length)
    read_as_much(student, settings.max_length)
    if is_static(student):
        settings, finetuning = without_forgetting(job.stage, settings, finetuning, job.progress)
    if settings.dims and plan.dim is None and settings.dims[0] < _dim(student):
        plan = replace(plan, dim=settings.dims[0])
    measured, cache = _teachers(job, teacher, device)
    sizes = Sizes(plan.dim or _dim(student), cache.dim)
    rate = settings.learning_rate or usual_learning_rate(plan, settings.output_space, transformer_width(teacher))
    projection = projection_for(settings, plan, sizes.student, sizes.teacher)
    settings = replace(settings, learning_rate=rate, projection=projection)
    check_dims(settings.dims, sizes.student, sizes.teacher)
    if job.stage != "finetune":
        check_freezing(student, settings.freeze_embeddings)
        build_objective(settings.objective, sizes, settings.objective_settings)
    if job.stage != "distill" and finetuning is not None:
        check_freezing(student, finetuning.freeze_embeddings)
    job = replace(job, plan=plan, settings=settings, finetuning=finetuning)
    return job, _Models(student, measured, cache, sizes, f"{made_of} with {plan.dim or 'all'} dimensions")


def _teachers(job: Job, first: SentenceTransformer, device: str) -> tuple[Encoder | JointTeacher, TeacherVectors]:
    """The teacher for evaluation, and the cache of target vectors. Several teachers are joined into one."""
    models = {job.teacher_name: first} | {
        name: load_sentence_transformer(name, device=device) for name in job.further_teachers
    }
    encoders = [Encoder(copy.deepcopy(model), name, dtype=job.settings.dtype) for name, model in models.items()]
    with ranks.in_turn():
        caches = [open_cache(name, model, job.settings, job.cache_root) for name, model in models.items()]
    if len(encoders) == 1:
        return encoders[0], caches[0]
    return JointTeacher(encoders), JointCache(caches, JointTeacher([cast(Encoder, each.teacher) for each in caches]))


def open_cache(name: str, model: SentenceTransformer, settings: DistillSettings, root: Path) -> TeacherCache:
    """Open the cache of a teacher. The teacher reads no more tokens of a text than the student does.

    Args:
        name: name of the teacher.
        model: the teacher. Its maximum length is changed.
        settings: the recipe, which gives the maximum length and the dtype.
        root: folder of all caches.

    Raises:
        UserError: the folder is not a cache of this teacher at this length.
    """
    if not is_static(model):  # A static model has no length limit.
        model.max_seq_length = min(settings.max_length, model.max_seq_length or settings.max_length)
    reader = Encoder(model, name, dtype=settings.dtype)
    return TeacherCache(root / f"{short_model_name(name)}-{reader.weight_hash[:12]}-{reader.dtype}", reader)


def _read_data(job: Job, models: _Models) -> _Data:
    """Read the training texts and the dev set. They share no text."""
    seed, dev = job.settings.seed, None
    # The first process may have to download a collection.
    with ranks.in_turn():
        if job.dev_queries is not None:
            dev = judged_dev(
                job.dev_corpus or job.corpus,
                job.dev_queries,
                most_queries=_DEV_QUERIES,
                most_documents=_DEV_DOCUMENTS,
                seed=seed,
            )
        held_out = dev.texts if dev is not None else []
        texts = gather_texts(
            job.corpus, job.queries, exclude=held_out, limit=job.max_documents, seed=seed, progress=job.progress
        )
    watched: Dev | None = dev
    if watched is None:
        watched = neighbour_dev(texts.documents or texts.queries, models.teacher, size=_DEV_NEIGHBOURS, seed=seed)
        texts = texts.without(watched.texts)
    if job.synthetic_queries:
        texts = _with_synthetic(job, texts, watched)
    pairs = job.pairs
    if pairs is not None and job.finetuning is not None:
        pairs = usable_pairs(pairs, watched, job.finetuning)
    if job.settings.output_space == "teacher":
        watched = TeacherSpaceDev(watched, models.teacher)
    return _Data(texts, watched, pairs)


def _with_synthetic(job: Job, texts: TrainingTexts, dev: Dev) -> TrainingTexts:
    """The texts and queries made of their documents, which the first process writes beside the checkpoints."""
    held_out = {*dev.texts, *texts.queries}
    with ranks.in_turn():
        made = synthetic_queries(job.corpus, texts.documents, job.synthetic_queries, job.settings.seed)
    made = [query for query in made if query.text not in held_out]
    if ranks.is_first():
        write_queries(made, job.output / CHECKPOINTS / SYNTHETIC)
        job.progress.say(f"{len(made)} synthetic queries of {len(texts.documents)} documents")
    return TrainingTexts(texts.documents, (*texts.queries, *(query.text for query in made)))


def _complete_student(job: Job, models: _Models, data: _Data) -> None:
    """Reduce the student's dimensions and add its output layer, as the recipe says, in place."""
    student = models.student
    if job.plan.dim is not None and job.plan.model != STATIC:
        encoder = Encoder(copy.deepcopy(student), "student", dtype=job.settings.dtype)
        sample = ranks.from_first(lambda: encoder.encode(data.texts.spread(_START_SAMPLE)))
        reduce_dimension(student, sample.astype(np.float32), job.plan.dim)
    if job.settings.needs_output_layer and not ends_in_linear(student):
        add_output_layer(student)


def _train(job: Job, models: _Models, data: _Data) -> _Trained:
    """Run the stages of the job."""
    origin = models.origin
    events = job.output / "tensorboard" if job.tensorboard else None
    final, distilled, finetuned = FinishedModel(models.student, None), None, None
    shared: dict[str, Any] = {"resume": job.resume, "progress": job.progress}
    if job.stage != "finetune":
        job.progress.say(
            f"learning from {len(data.texts.documents):,} documents and {len(data.texts.queries):,} queries; "
            f"watching {data.dev.metric} on {len(data.dev.texts):,} held-out texts"
        )
        distilled = train_student(
            models.student,
            models.cache,
            data.texts,
            data.dev,
            job.settings,
            job.output / CHECKPOINTS,
            origin,
            tensorboard=events and events / "distilling",
            **shared,
        )
        final = finished_model(models.student, distilled.projection, job.settings)
        origin = f"{origin}, distilled with {job.settings.as_dict()} from {data.texts.fingerprint}"
    if job.stage != "distill" and data.pairs is not None and job.finetuning is not None:
        finetuned = finetune_student(
            final.model,
            models.cache,
            data.pairs,
            job.pair_corpus or job.corpus,
            data.dev,
            job.finetuning,
            job.output / FINETUNING,
            origin,
            tensorboard=events and events / "finetuning",
            **shared,
        )
        final = FinishedModel(final.model, None)
    return _Trained(final, distilled, finetuned)


def _report(job: Job, models: _Models, data: _Data, trained: _Trained) -> StudentReport:
    """Measure the finished student and its teacher, and make the report."""
    settings, dev = job.settings, data.dev
    figures = final_figures(trained.final.model, str(job.output), models.teacher, dev, settings.dims, settings.dtype)
    loops = [trained.distilled] if trained.distilled else []
    loops += [trained.finetuned.loop] if trained.finetuned else []
    if not np.isfinite(loops[-1].dev):
        raise UserError(f"The dev {dev.metric} of the student is no number: give another `student` or `dev`.")
    config = decided(job.config, job.plan, settings, job.finetuning) if job.config else None
    return StudentReport(
        teacher=EncoderFacts.of(models.teacher, figures.teacher_dev, figures.teacher_speed),
        student=EncoderFacts.of(figures.student, loops[-1].dev, figures.student_speed),
        undistilled_dev=loops[0].history[0].value,
        shorter_dev=figures.shorter_dev,
        dev_metric=dev.metric,
        dev_set=dev.name,
        stage=job.stage,
        history=loops[0].history,
        corpus=job.corpus.name,
        queries=job.queries.name if job.queries else None,
        texts=len(data.texts),
        fingerprint=data.texts.fingerprint,
        origin=f"{job.plan} of {job.teacher_name}",
        settings=settings,
        finetuning=_finetune_facts(job, data, trained.finetuned),
        train_seconds=loops[0].seconds,
        texts_per_second=loops[0].texts_per_second,
        environment=read_environment(),
        config=config.to_json() if config else None,
    )


def _finetune_facts(job: Job, data: _Data, result: FinetuneResult | None) -> FinetuneFacts | None:
    if result is None or job.finetuning is None or data.pairs is None:
        return None
    return FinetuneFacts(
        pairs=data.pairs.name,
        queries=result.pairs,
        negatives_a_query=result.negatives_a_query,
        fingerprint=result.fingerprint,
        settings=job.finetuning,
        history=result.loop.history,
        seconds=result.loop.seconds,
    )


def _dim(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)
