"""`ibkd distill` as a function: teacher and text in, a finished model folder out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.dev import Dev, judged_dev, neighbour_dev
from ibkd_retrieval.distill.model_folder import FINISHED, EncoderFacts, StudentReport, save_student
from ibkd_retrieval.distill.objectives.table import check_dims
from ibkd_retrieval.distill.output_space import ends_in_linear, finished_model
from ibkd_retrieval.distill.settings import DistillSettings
from ibkd_retrieval.distill.teacher_cache import TeacherCache
from ibkd_retrieval.distill.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.train import train_student
from ibkd_retrieval.distill.training_log import LOG_FILE, require_tensorboard
from ibkd_retrieval.encoders.device import choose_device
from ibkd_retrieval.encoders.encoder import Encoder, weight_hash
from ibkd_retrieval.encoders.loading import load_sentence_transformer, position_limit, quiet_transformers
from ibkd_retrieval.encoders.names import short_model_name
from ibkd_retrieval.encoders.students import add_output_layer, reduce_dimension, student_from_layers
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DEV_QUERIES = 300
_DEV_DOCUMENTS = 2000
_SPEED_SAMPLE = 128
_START_SAMPLE = 2048


@dataclass(frozen=True)
class StudentPlan:
    """How the student is born.

    Attributes:
        model: a small model by folder or hub name; None takes layers of the teacher.
        layers: how many layers, evenly spaced, or their positions; only without `model`.
        dim: output length, None for the model's own.
        pooling: for a plain transformers encoder.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int | None = None
    pooling: str | None = None

    def name(self, teacher: str, objective: str) -> str:
        """A folder name that tells students apart: `all-MiniLM-L6-v2-l2-d128-ibkd`."""
        parts = [short_model_name(self.model or teacher)]
        if self.layers is not None:
            parts.append(f"l{self.layers}" if isinstance(self.layers, int) else "l" + "_".join(map(str, self.layers)))
        if self.dim is not None:
            parts.append(f"d{self.dim}")
        return "-".join([*parts, objective])


def distill(
    *,
    teacher_name: str,
    plan: StudentPlan,
    corpus: Corpus,
    queries: QuerySet | None,
    settings: DistillSettings,
    output: Path,
    cache_root: Path,
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
    """Distil a teacher into a student and write the student's folder.

    Args:
        teacher_name: the encoder to learn from.
        plan: how the student is born.
        corpus: documents to learn from, as unlabelled text.
        queries: queries to learn from, likewise; None for documents only.
        settings: the recipe.
        output: the model folder to make; holds checkpoints until it is finished.
        cache_root: folder below which each teacher has its cache of vectors.
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
    """
    prepare_output(output, resume=resume, overwrite=overwrite)
    if tensorboard:
        require_tensorboard()
    device = choose_device(device)
    teacher_model = load_sentence_transformer(teacher_name, device=device)
    student = _student(plan, teacher_model, device)
    born_of = weight_hash(student)
    _check_length(student, settings.max_length)
    check_dims(settings.dims, plan.dim or _dim(student), _dim(teacher_model))
    # Measured at its own length; the vectors to learn come from no more of a text than the student is shown.
    teacher = Encoder(_copy(teacher_model), teacher_name, dtype=settings.dtype)
    teacher_model.max_seq_length = min(settings.max_length, teacher_model.max_seq_length or settings.max_length)
    reader = Encoder(teacher_model, teacher_name, dtype=settings.dtype)
    cache_name = f"{short_model_name(teacher_name)}-{reader.weight_hash[:12]}-{reader.dtype}"
    cache = TeacherCache(cache_root / cache_name, reader)

    dev: Dev | None = None
    if dev_queries is not None:
        dev = judged_dev(
            dev_corpus or corpus,
            dev_queries,
            most_queries=_DEV_QUERIES,
            most_documents=_DEV_DOCUMENTS,
            seed=settings.seed,
        )
    held_out = dev.texts if dev is not None else []
    texts = gather_texts(corpus, queries, exclude=held_out, limit=max_documents, seed=settings.seed, progress=progress)
    if dev is None:
        dev = neighbour_dev(texts.documents or texts.queries, teacher, size=500, seed=settings.seed)
        texts = _without(texts, dev.texts)
    progress.say(
        f"learning from {len(texts.documents):,} documents and {len(texts.queries):,} queries; "
        f"watching {dev.metric} on {len(dev.texts):,} held-out texts"
    )
    if plan.dim is not None:
        sample = Encoder(_copy(student), "student", dtype=settings.dtype).encode(_spread(texts, _START_SAMPLE))
        reduce_dimension(student, sample, plan.dim)
    if settings.needs_output_layer and not ends_in_linear(student):
        add_output_layer(student)
    if keep_undistilled is not None:
        save_plain(student, keep_undistilled)
    if overwrite:
        # Only now: whatever was wrong with the options would have cost the old student.
        remove_output(output)
    result = train_student(
        student,
        cache,
        texts,
        dev,
        settings,
        output / "checkpoints",
        f"{born_of} with {plan.dim or 'all'} dimensions",
        resume=resume,
        tensorboard=output / "tensorboard" if tensorboard else None,
        progress=progress,
    )
    final = finished_model(student, result.projection, settings)
    trained = Encoder(_copy(final.model), str(output), dtype=settings.dtype)
    speeds = _speeds(teacher, trained, dev.texts[-_SPEED_SAMPLE:])
    report = StudentReport(
        teacher=EncoderFacts.of(teacher, dev.score(teacher), speeds[0]),
        student=EncoderFacts.of(trained, result.dev, speeds[1]),
        undistilled_dev=result.history[0].value,
        dev_metric=dev.metric,
        history=result.history,
        corpus=corpus.name,
        queries=queries.name if queries else None,
        texts=len(texts),
        fingerprint=texts.fingerprint,
        origin=f"{plan} of {teacher_name}",
        settings=settings,
        train_seconds=result.seconds,
        texts_per_second=result.texts_per_second,
    )
    save_student(final.model, final.to_teacher, report, output)
    return report


def prepare_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that `output` may be written; nothing is changed yet.

    Raises:
        UserError: it is finished, unfinished, or not ours, and the options do not say what to do.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a student and --overwrite starts anew: give one of them.")
    if not output.exists() or (output.is_dir() and not any(path.is_file() for path in output.rglob("*"))):
        return
    # The name `checkpoints` alone is too common to tell our folders by.
    finished, started = (output / FINISHED).is_file(), (output / "checkpoints" / LOG_FILE).is_file()
    if not output.is_dir() or not (finished or started):
        raise UserError(f"{output} exists and is no student of this toolkit: give another --output.")
    if overwrite:
        return
    if finished:
        raise UserError(f"{output} is finished: give another --output, or --overwrite to replace it.")
    if not resume:
        raise UserError(f"{output} is unfinished: give --resume to go on, or --overwrite to start anew.")


def remove_output(output: Path) -> None:
    """Delete a student's folder; killed in the middle of it, none is left that looks like a stranger's."""
    if not output.exists():
        return
    doomed = output.with_name(f".{output.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    output.rename(doomed)
    shutil.rmtree(doomed)


def save_plain(model: SentenceTransformer, folder: Path) -> None:
    """Save a model as a sentence-transformers folder, replacing one that is there.

    Raises:
        UserError: there is something else in its place.
    """
    if folder.exists() and not (folder / "modules.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no model folder: give another place for the undistilled student.")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet_transformers():
        model.save(str(temporary), create_model_card=False)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _student(plan: StudentPlan, teacher: SentenceTransformer, device: str) -> SentenceTransformer:
    from sentence_transformers.sentence_transformer.modules import Normalize

    if plan.model is None:
        if plan.layers is None:
            raise UserError("No student: name a small model with --student, or take --layers N of the teacher.")
        student = student_from_layers(teacher, plan.layers)
    else:
        student = load_sentence_transformer(plan.model, device=device, pooling=plan.pooling)
        if not hasattr(student[0], "auto_model"):
            raise UserError(f"`{plan.model}` is a static model, which cannot be trained here: give a transformer.")
        if plan.layers is not None:
            student = student_from_layers(student, plan.layers)
    if not any(isinstance(module, Normalize) for module in student):
        # Objectives train directions only; the lengths of a student compared by inner product would mean nothing.
        student.append(Normalize())
    return student


def _check_length(student: SentenceTransformer, max_length: int) -> None:
    limit = position_limit(student)
    if limit is not None and max_length > limit:
        raise UserError(f"The student reads at most {limit} tokens: give --max-length {limit} or less.")


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


def _speeds(teacher: Encoder, student: Encoder, texts: list[str]) -> tuple[float, float]:
    """Texts a second of both on the same texts, in turn, median of three rounds."""
    from ibkd_retrieval.evaluation.efficiency import measure_throughput

    rates = measure_throughput({"teacher": teacher.encode, "student": student.encode}, texts, rounds=3)
    return rates["teacher"].documents_per_second, rates["student"].documents_per_second
