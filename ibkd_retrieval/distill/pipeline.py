"""The distillation pipeline: from a teacher and text to a finished model folder."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.config import STATIC, DistillConfig, TrainingConfig
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.synthetic import SYNTHETIC, synthetic_queries, write_queries
from ibkd_retrieval.distill.data.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.defaults import check_stage, recorded, with_models
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
from ibkd_retrieval.distill.training.loop import LoopResult, StageRun
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
    """A distillation job: its data is open and its configuration is decided.

    Attributes:
        config: the decided configuration (`defaults.decided`). The sources that its data section names are open.
        corpus: training documents, used as unlabelled text.
        queries: training queries, used as unlabelled text. None uses documents only.
        output: the model folder to write. It holds checkpoints until it is finished.
        cache_root: folder of the teachers' caches.
        pairs: the training pairs of stage 2.
        pair_corpus: the corpus in which hard negatives are mined. None mines in `corpus`.
        dev_corpus: the corpus of `dev_queries`.
        dev_queries: judged queries of the dev set. None measures overlap with the teacher's neighbours on held-out
            texts.
        device: the device to train on.
        resume: continue an unfinished `output`.
        overwrite: replace a finished or unfinished `output`.
        keep_undistilled: folder in which the untrained student is saved too.
        tensorboard: also log to TensorBoard, in `output`/tensorboard.
        given: the configuration as the user gave it, from which the one to be recorded is made. None records none.
        progress: receives progress reports.
    """

    config: DistillConfig
    corpus: Corpus
    queries: QuerySet | None
    output: Path
    cache_root: Path
    pairs: PairSet | None = None
    pair_corpus: Corpus | None = None
    dev_corpus: Corpus | None = None
    dev_queries: QuerySet | None = None
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    keep_undistilled: Path | None = None
    tensorboard: bool = False
    given: DistillConfig | None = None
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
    check_stage(job.config, job.pairs)
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
        _complete_student(job.config, models.student, data.texts)
        if job.config.stage != "finetune":
            check_enough(data.texts, job.config.training.batch_size)
        if ranks.is_first():
            if job.keep_undistilled is not None:
                save_plain(models.student, job.keep_undistilled)
            if job.overwrite:
                clear_unfinished(job.output)
        trained = _train(job, models, data)
        report = _report(job, models, data, trained)
        if ranks.is_first():
            save_student(trained.final.model, trained.final.to_teacher, report, job.output)
    job.progress.say(_cost(report, time.monotonic() - began))
    return report


def _as_begun(job: Job) -> Job:
    """The job with the regression weight of the run that it resumes, unless one is given: 0.1.0 had another default."""
    checkpoints = list_checkpoints(job.output / CHECKPOINTS) if job.resume and job.config.stage != "finetune" else []
    if not checkpoints or job.given is None or "regression_weight" in job.given.given():
        return job
    begun = read_state(checkpoints[-1])["identity"]["settings"]["objective_settings"]["regression_weight"]
    return replace(job, config=job.config.with_parameters(regression_weight=begun))


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


@contextmanager
def _held(output: Path) -> Iterator[None]:
    if not ranks.is_first() or (output.exists() and not output.is_dir()):
        yield
        return
    with only_writer(output, make=True):
        yield


def _load_models(job: Job) -> tuple[Job, _Models]:
    """Load the teachers, initialise the student, and make the choices that depend on them."""
    config = job.config
    device = ranks.local_device(choose_device(job.device))
    teacher = load_sentence_transformer(config.teacher[0], device=device)
    dims = config.student.dims
    if dims and not config.student.dim and config.student.model == STATIC:
        config = config.with_parameters(dim=dims[0])
    student = initial_student(config.student, teacher, config.teacher[0], device)
    ranks.same_weights({"student": student})
    made_of = weight_hash(student)
    check_length(student, config.training.max_length)
    read_as_much(student, config.training.max_length)
    if is_static(student):
        config = without_forgetting(config, job.progress)
    if dims and not config.student.dim and dims[0] < _dim(student):
        config = config.with_parameters(dim=dims[0])
    measured, cache = _teachers(config, job.cache_root, teacher, device)
    sizes = Sizes(config.student.dim or _dim(student), cache.dim)
    config = with_models(config, sizes.student, sizes.teacher, transformer_width(teacher))
    check_dims(dims, sizes.student, sizes.teacher)
    check_freezing(student, config.student.freeze_embeddings)
    if config.stage != "finetune":
        build_objective(config.objective, sizes)
    origin = f"{made_of} with {config.student.dim or 'all'} dimensions"
    return replace(job, config=config), _Models(student, measured, cache, sizes, origin)


def _teachers(
    config: DistillConfig, cache_root: Path, first: SentenceTransformer, device: str
) -> tuple[Encoder | JointTeacher, TeacherVectors]:
    """The teacher for evaluation, and the cache of target vectors. Several teachers are joined into one."""
    models = {config.teacher[0]: first} | {
        name: load_sentence_transformer(name, device=device) for name in config.teacher[1:]
    }
    pairs = [_whole_and_cut(name, model, config.training) for name, model in models.items()]
    encoders = [whole for whole, _ in pairs]
    with ranks.in_turn():
        caches = [_cache_of(reader, name, cache_root) for (_, reader), name in zip(pairs, models, strict=True)]
    if len(encoders) == 1:
        return encoders[0], caches[0]
    return JointTeacher(encoders), JointCache(caches, JointTeacher([cast(Encoder, each.teacher) for each in caches]))


def _whole_and_cut(name: str, model: SentenceTransformer, settings: TrainingConfig) -> tuple[Encoder, Encoder]:
    """A teacher with its own length, and one that reads no more of a text than the student. They share the weights."""
    own = model.max_seq_length
    # A static model has no length limit.
    length = settings.max_length if own is None else min(settings.max_length, own)
    if is_static(model) or length == own:
        whole = Encoder(model, name, dtype=settings.dtype)
        return whole, whole
    model.max_seq_length = length
    cut = weight_hash(model)
    model.max_seq_length = own
    whole = Encoder(model, name, dtype=settings.dtype)
    return whole, whole.shortened(length, cut)


def open_cache(name: str, model: SentenceTransformer, settings: TrainingConfig, root: Path) -> TeacherCache:
    """Open the cache of a teacher. The teacher reads no more tokens of a text than the student does.

    Args:
        name: name of the teacher.
        model: the teacher. It is converted in place.
        settings: the recipe, which gives the maximum length and the dtype.
        root: folder of all caches.

    Raises:
        UserError: the folder is not a cache of this teacher at this length.
    """
    return _cache_of(_whole_and_cut(name, model, settings)[1], name, root)


def _cache_of(reader: Encoder, name: str, root: Path) -> TeacherCache:
    return TeacherCache(root / f"{short_model_name(name)}-{reader.weight_hash[:12]}-{reader.dtype}", reader)


def _read_data(job: Job, models: _Models) -> _Data:
    """Read the training texts and the dev set. They share no text."""
    seed, dev = job.config.training.seed, None
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
            job.corpus,
            job.queries,
            exclude=held_out,
            limit=job.config.data.max_documents,
            seed=seed,
            progress=job.progress,
        )
    watched: Dev | None = dev
    if watched is None:
        watched = neighbour_dev(texts.documents or texts.queries, models.teacher, size=_DEV_NEIGHBOURS, seed=seed)
        texts = texts.without(watched.texts)
    if each := job.config.data.synthetic_queries:
        texts = _with_synthetic(job, texts, watched, each)
    pairs = job.pairs
    if pairs is not None:
        pairs = usable_pairs(pairs, watched, job.config.finetuning)
    if job.config.student.output_space == "teacher":
        watched = TeacherSpaceDev(watched, models.teacher)
    return _Data(texts, watched, pairs)


def _with_synthetic(job: Job, texts: TrainingTexts, dev: Dev, each: int) -> TrainingTexts:
    """The texts and queries made of their documents, which the first process writes beside the checkpoints."""
    held_out = {*dev.texts, *texts.queries}
    with ranks.in_turn():
        made = synthetic_queries(job.corpus, texts.documents, each, job.config.training.seed)
    made = [query for query in made if query.text not in held_out]
    if ranks.is_first():
        write_queries(made, job.output / CHECKPOINTS / SYNTHETIC)
        job.progress.say(f"{len(made)} synthetic queries of {len(texts.documents)} documents")
    return TrainingTexts(texts.documents, (*texts.queries, *(query.text for query in made)))


def _complete_student(config: DistillConfig, student: SentenceTransformer, texts: TrainingTexts) -> None:
    """Reduce the student's dimensions and add its output layer, as the configuration says, in place."""
    if config.student.dim and config.student.model != STATIC:
        encoder = Encoder(copy.deepcopy(student), "student", dtype=config.training.dtype)
        sample = ranks.from_first(lambda: encoder.encode(texts.spread(_START_SAMPLE)))
        reduce_dimension(student, sample.astype(np.float32), config.student.dim)
    if config.needs_output_layer and not ends_in_linear(student):
        add_output_layer(student)


def _train(job: Job, models: _Models, data: _Data) -> _Trained:
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
        origin = f"{origin}, distilled with {config.distilling_record()} from {data.texts.fingerprint}"
    if data.pairs is not None:
        stage, corpus = _stage(job, FINETUNING, origin, "finetuning"), job.pair_corpus or job.corpus
        finetuned = finetune_student(final.model, models.cache, data.pairs, corpus, data.dev, config, stage)
        final = FinishedModel(final.model, None)
    return _Trained(final, distilled, finetuned)


def _stage(job: Job, folder: str, origin: str, events: str) -> StageRun:
    tensorboard = job.output / "tensorboard" / events if job.tensorboard else None
    return StageRun(job.output / folder, origin, job.resume, tensorboard, job.progress)


def _report(job: Job, models: _Models, data: _Data, trained: _Trained) -> StudentReport:
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
        origin=f"{config.student} of {config.teacher[0]}",
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


def _dim(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)
