"""A distillation job, and its preparation: models, texts, dev set and pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.corpora.records import Corpus, QuerySet
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.pairs import PairSet
from ibkd_retrieval.distill.data.synthetic import SyntheticQuery, synthetic_queries
from ibkd_retrieval.distill.data.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.defaults import decided, text_sources, with_models
from ibkd_retrieval.distill.dev_metric import Dev, TeacherSpaceDev, judged_dev, neighbour_dev
from ibkd_retrieval.distill.objectives import build_objective, check_dims
from ibkd_retrieval.distill.objectives.base import Sizes
from ibkd_retrieval.distill.sections import STATIC
from ibkd_retrieval.distill.sources import open_sources
from ibkd_retrieval.distill.student import (
    check_freezing,
    check_length,
    ends_in_linear,
    initial_student,
    read_as_much,
    transformer_width,
    without_forgetting,
)
from ibkd_retrieval.distill.teacher.cache import TeacherVectors
from ibkd_retrieval.distill.teacher.endpoint import agree_to_teachers, open_endpoint
from ibkd_retrieval.distill.teacher.joint import JointCache, JointTeacher
from ibkd_retrieval.distill.teacher.model import cache_of, load_teacher, spread_over, whole_and_cut
from ibkd_retrieval.distill.teacher.vectors import VectorTeacher
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.stage2 import usable_pairs
from ibkd_retrieval.encoders.device import choose_device
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.endpoints.address import EndpointTerms, is_endpoint
from ibkd_retrieval.encoders.prompts import check_prompt, word_on_prompts
from ibkd_retrieval.encoders.students import add_output_layer, is_static, reduce_dimension
from ibkd_retrieval.encoders.vocabulary import cut_vocabulary
from ibkd_retrieval.encoders.weights import weight_hash
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
        vectors: the teacher's vectors, if there is no model of it.
        endpoint: what may be spent on a teacher behind an endpoint, and how fast.
        given: the configuration as the user gave it, from which the one to be recorded is made. None records none.
        cluster: the nodes that encode with the teacher. None encodes here.
        held: whether another process holds the output folder for this one, and has prepared it.
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
    vectors: VectorTeacher | None = None
    endpoint: EndpointTerms = field(default_factory=EndpointTerms)
    given: DistillConfig | None = None
    cluster: Cluster | None = None
    held: bool = False
    progress: Progress = SILENT


@dataclass(frozen=True)
class Models:
    """The student, its teacher and the target vectors.

    Attributes:
        student: the untrained student, on its device.
        teacher: the teacher with its own maximum length, for evaluation.
        cache: the target vectors. The teacher reads no more tokens of a text than the student does.
        sizes: dimensions of the finished student and of the teacher.
        origin: how the student was made. A resumed run must have the same origin.
    """

    student: SentenceTransformer
    teacher: Encoder | JointTeacher | VectorTeacher
    cache: TeacherVectors
    sizes: Sizes
    origin: str


@dataclass(frozen=True)
class JobData:
    """The training data and the dev set.

    Attributes:
        texts: the unlabelled text, with the synthetic queries.
        dev: what checkpoints are evaluated on.
        pairs: the judged pairs of stage 2. None without that stage.
        synthetic: the synthetic queries.
    """

    texts: TrainingTexts
    dev: Dev
    pairs: PairSet | None
    synthetic: Sequence[SyntheticQuery] = ()


def open_job(given: DistillConfig, cache_root: Path, progress: Progress = SILENT, **run: Any) -> Job:
    """Open what a run learns from, and decide its configuration.

    Args:
        given: the configuration as the user gave it.
        cache_root: folder of the teachers' caches.
        progress: receives progress reports.
        run: further fields of `Job`.

    Raises:
        UserError: a value is invalid, or a source cannot be opened.
    """
    chosen = decided(given)
    with ranks.in_turn():  # Collections may have to be downloaded first, once.
        opened = open_sources(*text_sources(given), given, cache_root, progress)
    return Job(config=chosen, given=given, cache_root=cache_root, progress=progress, **run, **opened)


def load_models(job: Job) -> tuple[Job, Models]:
    """Load the teachers, initialise the student, and make the choices that depend on them."""
    config = job.config
    device = ranks.local_device(choose_device(job.device))
    for name in ("query_prompt", "document_prompt", "teacher_query_prompt", "teacher_document_prompt"):
        check_prompt(config.value(name), name)
    if job.vectors is None:
        _agree_to_cost(job)
    teacher = None if job.vectors else load_teacher(config.teacher[0], config.teaching, config.training.dtype, device)
    if teacher is not None:
        _warn_without_prompts(config.teacher[0], teacher, "teacher_", job)
    dims = config.student.dims
    if dims and not config.student.dim and config.student.model == STATIC:
        config = config.with_parameters(dim=dims[0])
    student = initial_student(config.student, teacher, config.teachers[0], device)
    if config.student.trained_before:
        _warn_without_prompts(str(config.student.model), student, "", job)
    ranks.same_weights({"student": student})
    made_of = weight_hash(student)
    check_length(student, config.training.max_length)
    read_as_much(student, config.training.max_length)
    if is_static(student):
        config = without_forgetting(config, job.progress)
    if dims and not config.student.dim and dims[0] < _dim(student):
        config = config.with_parameters(dim=dims[0])
    measured: Encoder | JointTeacher | VectorTeacher
    cache: TeacherVectors
    if job.vectors is not None:
        measured = cache = job.vectors
    else:
        measured, cache = _teachers(job, teacher, device)
    sizes = Sizes(config.student.dim or _dim(student), cache.dim)
    config = with_models(config, sizes.student, sizes.teacher, transformer_width(teacher) if teacher else None)
    check_dims(dims, sizes.student, sizes.teacher)
    check_freezing(student, config.student.freeze_embeddings)
    if config.stage != "finetune":
        build_objective(config.objective, sizes)
    origin = f"{made_of} with {config.student.dim or 'all'} dimensions"
    return replace(job, config=config), Models(student, measured, cache, sizes, origin)


def _agree_to_cost(job: Job) -> None:
    """Have the cost of all text that teachers behind an endpoint will read agreed to."""
    corpora: dict[Corpus, int | None] = {job.corpus: job.config.data.max_documents}
    passages: list[str] = []
    queries = [query.text for query in job.queries.queries] if job.queries is not None else []
    if job.dev_queries is not None:
        searched = job.dev_corpus or job.corpus
        learnt = corpora.get(searched, 0)
        corpora[searched] = None if learnt is None else learnt + _DEV_DOCUMENTS
        queries += [query.text for query in job.dev_queries.queries[:_DEV_QUERIES]]
    if job.pairs is not None:
        queries += [pair.query for pair in job.pairs.pairs]
        passages += [text for pair in job.pairs.pairs for text in pair.positives]
        if job.config.finetuning.negatives:
            corpora[job.pair_corpus or job.corpus] = None
    agree_to_teachers(job.config, [*corpora.items()], passages, queries, job.endpoint, job.progress)


def _teachers(
    job: Job, first: SentenceTransformer | None, device: str
) -> tuple[Encoder | JointTeacher, TeacherVectors]:
    """The teacher for evaluation, and the cache of target vectors. Several teachers are joined into one."""
    config = job.config
    pairs: list[tuple[Encoder, Encoder]] = []
    for name in dict.fromkeys(config.teacher):
        if is_endpoint(name):
            with ranks.in_turn():  # The first gives the model the hash that the others take over.
                encoder = open_endpoint(name, config.teaching, job.endpoint, job.progress)
            pairs.append((encoder, encoder))
            continue
        load: Any = partial(load_teacher, name, config.teaching, config.training.dtype, device)
        model = first if not pairs and first is not None else load()
        pairs.append(whole_and_cut(name, model, config.training, load))
    encoders = [whole for whole, _ in pairs]
    with ranks.in_turn():
        caches = [cache_of(reader, job.cache_root) for _, reader in pairs]
    if job.cluster is not None:
        for cache in caches:
            spread_over(job.cluster, cache, config.teaching, config.training, job.progress)
    if len(encoders) == 1:
        return encoders[0], caches[0]
    return JointTeacher(encoders), JointCache(caches, JointTeacher([cast(Encoder, each.teacher) for each in caches]))


def _warn_without_prompts(name: str, model: SentenceTransformer, of: Literal["", "teacher_"], job: Job) -> None:
    """Say that a family of models is trained with prompts, where this one has none and none were given."""
    if all(job.config.value(f"{of}{kind}_prompt") is None for kind in ("query", "document")):
        word = word_on_prompts(name, (model.prompts or {}).values(), known=True, of=of)
        if word is not None and ranks.is_first():
            job.progress.say(word)


def read_data(job: Job, models: Models) -> JobData:
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
    made: Sequence[SyntheticQuery] = ()
    if each := job.config.data.synthetic_queries:
        texts, made = _with_synthetic(job, texts, watched, each)
    pairs = job.pairs
    if pairs is not None:
        pairs = usable_pairs(pairs, watched, job.config.finetuning)
    if job.config.student.output_space == "teacher":
        watched = TeacherSpaceDev(watched, models.teacher)
        if ranks.is_first():
            watched.encode_searched()
    return JobData(texts, watched, pairs, made)


def _with_synthetic(
    job: Job, texts: TrainingTexts, dev: Dev, each: int
) -> tuple[TrainingTexts, Sequence[SyntheticQuery]]:
    """The texts with queries made of their documents, and these queries."""
    held_out = {*dev.texts, *texts.queries}
    with ranks.in_turn():
        made = synthetic_queries(job.corpus, texts.documents, each, job.config.training.seed)
    made = [query for query in made if query.text not in held_out]
    if ranks.is_first():
        job.progress.say(f"{len(made)} synthetic queries of {len(texts.documents)} documents")
    return TrainingTexts(texts.documents, (*texts.queries, *(query.text for query in made))), made


def with_vocabulary(job: Job, models: Models, data: JobData) -> Models:
    """The models with the student's token table cut to the tokens of all texts of the run, if the job says so."""
    if job.config.student.vocabulary != "corpus":
        return models
    student = cut_vocabulary(models.student, (*data.texts.documents, *data.texts.queries, *data.dev.searched))
    before, after = (len(each.tokenizer.get_vocab()) for each in (models.student, student))
    job.progress.say(f"the texts have {after:,} of the {before:,} tokens of the student's table")
    return replace(models, student=student, origin=f"{models.origin} and the vocabulary of its texts")


def complete_student(config: DistillConfig, student: SentenceTransformer, texts: TrainingTexts) -> None:
    """Reduce the student's dimensions and add its output layer, as the configuration says, in place."""
    if config.student.dim not in (0, _dim(student)) and config.student.model != STATIC:
        encoder = Encoder(copy.deepcopy(student), "student", dtype=config.training.dtype)
        sample = ranks.from_first(lambda: encoder.encode(texts.spread(_START_SAMPLE)))
        reduce_dimension(student, sample.astype(np.float32), config.student.dim)
    if config.needs_output_layer and not ends_in_linear(student):
        add_output_layer(student)


def _dim(model: SentenceTransformer) -> int:
    return int(model.get_embedding_dimension() or 0)
