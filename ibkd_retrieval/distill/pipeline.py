"""`ibkd distill` as a function: teacher and text in, a finished model folder out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.config import DistillSettings, FinetuneSettings
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.defaults import (
    check_freezing,
    check_length,
    check_stage,
    projection_for,
    read_as_much,
    without_forgetting,
)
from ibkd_retrieval.distill.dev_metric import Dev, TeacherSpaceDev, judged_dev, neighbour_dev
from ibkd_retrieval.distill.objectives.base import Sizes
from ibkd_retrieval.distill.objectives.table import build_objective, check_dims
from ibkd_retrieval.distill.output.final_figures import final_figures
from ibkd_retrieval.distill.output.folder import CHECKPOINTS, FINETUNING, prepare_output, remove_output, save_plain
from ibkd_retrieval.distill.output.space import FinishedModel, ends_in_linear, finished_model
from ibkd_retrieval.distill.output.student_folder import EncoderFacts, FinetuneFacts, StudentReport, save_student
from ibkd_retrieval.distill.plan import STATIC, StudentPlan, born_student
from ibkd_retrieval.distill.teacher.cache import TeacherCache, TeacherVectors
from ibkd_retrieval.distill.teacher.joint import JointCache, JointTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import require_tensorboard
from ibkd_retrieval.distill.training.loop import LoopResult
from ibkd_retrieval.distill.training.stage1 import train_student
from ibkd_retrieval.distill.training.stage1_run import check_enough
from ibkd_retrieval.distill.training.stage2 import FinetuneResult, finetune_student, usable_pairs
from ibkd_retrieval.encoders.device import choose_device
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.environment import read_environment
from ibkd_retrieval.encoders.loading import load_sentence_transformer, short_model_name
from ibkd_retrieval.encoders.students import add_output_layer, is_static, reduce_dimension
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DEV_QUERIES = 300
_DEV_DOCUMENTS = 2000
_START_SAMPLE = 2048


def distill(
    *,
    teacher_name: str,
    further_teachers: Sequence[str] = (),
    plan: StudentPlan,
    corpus: Corpus,
    queries: QuerySet | None,
    settings: DistillSettings,
    output: Path,
    cache_root: Path,
    stage: str = "distill",
    finetuning: FinetuneSettings | None = None,
    pairs: PairSet | None = None,
    pair_corpus: Corpus | None = None,
    dev_corpus: Corpus | None = None,
    dev_queries: QuerySet | None = None,
    max_documents: int | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    keep_undistilled: Path | None = None,
    tensorboard: bool = False,
    progress: Progress = SILENT,
) -> StudentReport:
    """Distil a teacher into a student, fine-tune it on pairs, or both, and write the student's folder.

    Several processes that `ranks.join` connected call it alike and get the same report; the first alone writes.

    Args:
        teacher_name: the encoder to learn from.
        further_teachers: more of them, whose vectors stand beside the first's.
        plan: how the student is born.
        corpus: documents to learn from, as unlabelled text.
        queries: queries to learn from, likewise; None for documents only.
        settings: the recipe of stage 1; its length, number format, seed and dims count for both.
        output: the model folder to make; holds checkpoints until it is finished.
        cache_root: folder below which each teacher has its cache of vectors.
        stage: "distill" for stage 1, "finetune" for stage 2, "both".
        finetuning: the recipe of stage 2, where that is asked for.
        pairs: what stage 2 learns from.
        pair_corpus: where hard negatives for them are mined; None mines in `corpus`.
        dev_corpus: documents around the dev queries; with `dev_queries`.
        dev_queries: judged queries to watch; None watches the teacher's neighbours among held-out texts.
        max_documents: most documents to learn from, drawn at random.
        device: where to compute.
        resume: go on with an unfinished `output`.
        overwrite: replace a finished or unfinished `output`.
        keep_undistilled: also save the student as it was born, here.
        tensorboard: also log to TensorBoard, in `output`/tensorboard.
        progress: told of everything.

    Raises:
        UserError: an input that cannot work.
        WorkFailed: training broke down.
        MissingPackage: tensorboard is asked for and not installed.
    """
    check_stage(stage, settings, pairs, teachers=1 + len(further_teachers))
    if ranks.is_first():
        prepare_output(output, resume=resume, overwrite=overwrite)
    if tensorboard:
        require_tensorboard()
    device = ranks.local_device(choose_device(device))
    teacher_model = load_sentence_transformer(teacher_name, device=device)
    if settings.dims and plan.dim is None and plan.model == STATIC:
        plan = replace(plan, dim=settings.dims[0])
    student = born_student(plan, teacher_model, teacher_name, device)
    ranks.same_weights({"student": student})
    born_of = weight_hash(student)
    check_length(student, settings.max_length)
    read_as_much(student, settings.max_length)
    if is_static(student):
        settings, finetuning = without_forgetting(stage, settings, finetuning, progress)
    if settings.dims and plan.dim is None and settings.dims[0] < _dim(student):
        plan = replace(plan, dim=settings.dims[0])
    # Measured at its own length; the vectors to learn come from no more of a text than the student is shown.
    models = {teacher_name: teacher_model} | {
        name: load_sentence_transformer(name, device=device) for name in further_teachers
    }
    encoders = [Encoder(_copy(model), name, dtype=settings.dtype) for name, model in models.items()]
    with ranks.in_turn():
        caches = [open_cache(name, model, settings, cache_root) for name, model in models.items()]
    teacher: Encoder | JointTeacher = encoders[0]
    cache: TeacherVectors = caches[0]
    if len(encoders) > 1:
        teacher = JointTeacher(encoders)
        cache = JointCache(caches, JointTeacher([cast(Encoder, each.teacher) for each in caches]))
    sizes = Sizes(plan.dim or _dim(student), cache.dim)
    settings = replace(settings, projection=projection_for(settings, plan, sizes.student, sizes.teacher))
    # What stops the run is told before the teacher encodes a corpus, and before an old student is removed.
    check_dims(settings.dims, sizes.student, sizes.teacher)
    if stage != "finetune":
        check_freezing(student, settings.freeze_embeddings)
        build_objective(settings.objective, sizes, settings.objective_settings)
    if stage != "distill" and finetuning is not None:
        check_freezing(student, finetuning.freeze_embeddings)

    dev: Dev | None = None
    # Collections may have to be downloaded first, once.
    with ranks.in_turn():
        if dev_queries is not None:
            dev = judged_dev(
                dev_corpus or corpus,
                dev_queries,
                most_queries=_DEV_QUERIES,
                most_documents=_DEV_DOCUMENTS,
                seed=settings.seed,
            )
        held_out = dev.texts if dev is not None else []
        texts = gather_texts(
            corpus, queries, exclude=held_out, limit=max_documents, seed=settings.seed, progress=progress
        )
    if dev is None:
        dev = neighbour_dev(texts.documents or texts.queries, teacher, size=500, seed=settings.seed)
        texts = _without(texts, dev.texts)
    if pairs is not None and finetuning is not None:
        pairs = usable_pairs(pairs, dev, finetuning)
    if settings.output_space == "teacher":
        dev = TeacherSpaceDev(dev, teacher)
    if plan.dim is not None and plan.model != STATIC:
        born = Encoder(_copy(student), "student", dtype=settings.dtype)
        sample = ranks.from_first(lambda: born.encode(_spread(texts, _START_SAMPLE)))
        reduce_dimension(student, sample.astype(np.float32), plan.dim)
    if settings.needs_output_layer and not ends_in_linear(student):
        add_output_layer(student)
    if stage != "finetune":
        check_enough(texts, settings)
    if keep_undistilled is not None and ranks.is_first():
        save_plain(student, keep_undistilled)
    if overwrite and ranks.is_first():
        # Only now: whatever was wrong with the options would have cost the old student.
        remove_output(output)
    origin = f"{born_of} with {plan.dim or 'all'} dimensions"
    events = output / "tensorboard" if tensorboard else None
    final, distilled, finetuned = FinishedModel(student, None), None, None
    if stage != "finetune":
        progress.say(
            f"learning from {len(texts.documents):,} documents and {len(texts.queries):,} queries; "
            f"watching {dev.metric} on {len(dev.texts):,} held-out texts"
        )
        distilled = train_student(
            student,
            cache,
            texts,
            dev,
            settings,
            output / CHECKPOINTS,
            origin,
            resume=resume,
            tensorboard=events and events / "distilling",
            progress=progress,
        )
        final = finished_model(student, distilled.projection, settings)
        origin = f"{origin}, distilled with {settings.as_dict()} from {texts.fingerprint}"
    if stage != "distill" and pairs is not None and finetuning is not None:
        finetuned = finetune_student(
            final.model,
            cache,
            pairs,
            pair_corpus or corpus,
            dev,
            finetuning,
            output / FINETUNING,
            origin,
            resume=resume,
            tensorboard=events and events / "finetuning",
            progress=progress,
        )
        final = FinishedModel(final.model, None)
    figures = final_figures(final.model, str(output), teacher, dev, settings.dims, settings.dtype)
    loops: list[LoopResult] = [distilled] if distilled else []
    loops += [finetuned.loop] if finetuned else []
    report = StudentReport(
        teacher=EncoderFacts.of(teacher, figures.teacher_dev, figures.teacher_speed),
        student=EncoderFacts.of(figures.student, loops[-1].dev, figures.student_speed),
        undistilled_dev=loops[0].history[0].value,
        shorter_dev=figures.shorter_dev,
        dev_metric=dev.metric,
        dev_set=dev.name,
        stage=stage,
        history=loops[0].history,
        corpus=corpus.name,
        queries=queries.name if queries else None,
        texts=len(texts),
        fingerprint=texts.fingerprint,
        origin=f"{plan} of {teacher_name}",
        settings=settings,
        finetuning=_finetune_facts(finetuned, finetuning, pairs),
        train_seconds=loops[0].seconds,
        texts_per_second=loops[0].texts_per_second,
        environment=read_environment(),
    )
    if ranks.is_first():
        save_student(final.model, final.to_teacher, report, output)
    return report


def open_cache(name: str, model: SentenceTransformer, settings: DistillSettings, root: Path) -> TeacherCache:
    """The cache, below `root`, of a teacher that reads no more of a text than a student is shown.

    Args:
        name: the teacher's.
        model: the teacher, which is taken over.
        settings: their length and number format count.
        root: folder of all caches.

    Raises:
        UserError: what is there is no cache of this teacher at this length.
    """
    if not is_static(model):  # Which has no limit to set.
        model.max_seq_length = min(settings.max_length, model.max_seq_length or settings.max_length)
    reader = Encoder(model, name, dtype=settings.dtype)
    return TeacherCache(root / f"{short_model_name(name)}-{reader.weight_hash[:12]}-{reader.dtype}", reader)


def _finetune_facts(
    result: FinetuneResult | None, settings: FinetuneSettings | None, pairs: PairSet | None
) -> FinetuneFacts | None:
    if result is None or settings is None or pairs is None:
        return None
    return FinetuneFacts(
        pairs=pairs.name,
        queries=result.pairs,
        negatives_a_query=result.negatives_a_query,
        fingerprint=result.fingerprint,
        settings=settings,
        history=result.loop.history,
        seconds=result.loop.seconds,
    )


def _without(texts: TrainingTexts, held_out: list[str]) -> TrainingTexts:
    out = set(held_out)
    keep: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda part: tuple(t for t in part if t not in out)  # noqa: E731
    return TrainingTexts(keep(texts.documents), keep(texts.queries))


def _spread(texts: TrainingTexts, most: int) -> list[str]:
    every = [*texts.documents, *texts.queries]
    return every[:: max(1, len(every) // most)][:most]


def _dim(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)


def _copy(model: SentenceTransformer) -> SentenceTransformer:
    import copy

    return copy.deepcopy(model)
