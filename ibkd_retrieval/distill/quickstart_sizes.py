"""What a quickstart can do within its minutes: measured speeds of this machine, and the sizes that fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, QuerySet

if TYPE_CHECKING:
    from ibkd_retrieval.distill.config import DistillConfig
    from ibkd_retrieval.encoders.encoder import Encoder

# An ivf-pq index takes 1,000 documents to train.
LEAST_STEPS, LEAST_DOCUMENTS, LEAST_INDEXED = 50, 500, 1000
_MOST_STEPS, _MOST_DOCUMENTS = 1000, 6000
_SAMPLE, _STEP_SAMPLE = 48, 64
# A step beside the two passes of as many documents. Half of the texts are queries, which are shorter. Some chunks are
# encoded again, and the loss and the optimiser take time.
_STEP_FACTOR = 0.9
# Queries are trained on too, and a fifth of the documents is held out and encoded by both distillations.
_WITH_QUERIES = 2.2
# The student has a third of the teacher's layers, and every document is indexed with both students, trained or not.
INDEXED_TWICE = 1.8
# What is independent of the sizes: texts for timing, by all encoders; queries one by one; the tokens of the static
# student's table; seconds of the rest.
_OTHER_DOCUMENTS, _OTHER_QUERIES, _TABLE_TOKENS, _REST = 600, 1200, 90_000, 40.0
_SAFETY = 0.9


@dataclass(frozen=True)
class Speeds:
    """Measured speeds of this machine.

    Attributes:
        documents: documents a second that the teacher encodes.
        tokens: the same in tokens.
        query: seconds that the teacher takes for one query alone.
        step: seconds of a training step.
    """

    documents: float
    tokens: float
    query: float
    step: float


@dataclass(frozen=True)
class Sizes:
    """The sizes of a quickstart.

    Attributes:
        steps: optimiser steps of the transformer student.
        documents: training documents.
        indexed: documents in each index.
        seconds: estimated duration.
    """

    steps: int
    documents: int
    indexed: int
    seconds: float


def measure_speeds(teacher: Encoder, config: DistillConfig, texts: Sequence[str]) -> Speeds:
    """Encode a few texts with the teacher, and take the two passes of a part of a batch with its student.

    Args:
        teacher: the teacher.
        config: the decided configuration of the student.
        texts: training documents.
    """
    from ibkd_retrieval.distill.data.batches import training_tokens
    from ibkd_retrieval.distill.data.texts import TrainingTexts
    from ibkd_retrieval.distill.student import initial_student
    from ibkd_retrieval.distill.training.student_module import StudentModule
    from ibkd_retrieval.encoders.loading import load_sentence_transformer

    sample = tuple(texts[:: max(1, len(texts) // _STEP_SAMPLE)][:_STEP_SAMPLE])
    name, training = config.teacher[0], config.training
    # The students train on the teacher's device, in the same number format.
    model = load_sentence_transformer(name, device=teacher.device)
    student = initial_student(config.student, model, name, teacher.device)
    module = StudentModule(student, training.dtype, freeze_embeddings=config.student.freeze_embeddings)
    token_ids = training_tokens(student, TrainingTexts(sample, ()), training.max_length)
    everything = np.arange(len(sample))

    def both_passes() -> None:
        module(token_ids.features(student, everything))[0].sum().backward()

    whole = _seconds(lambda: teacher.encode(sample))
    return Speeds(
        documents=len(sample) / whole,
        tokens=sum(teacher.token_counts(sample)) / whole,
        query=_seconds(lambda: teacher.encode([sample[0][:60]], "query")),
        step=_STEP_FACTOR * training.batch_size / len(sample) * _seconds(both_passes),
    )


def _seconds(work: Callable[[], object]) -> float:
    """Time of the second call. The first one loads and sets up."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def seconds_of(speeds: Speeds, steps: int, documents: int, indexed: int) -> float:
    """Estimated duration of a quickstart of these sizes."""
    encoded = _WITH_QUERIES * documents + INDEXED_TWICE * indexed + _OTHER_DOCUMENTS
    fixed = _OTHER_QUERIES * speeds.query + _TABLE_TOKENS / speeds.tokens + _REST
    return (encoded / speeds.documents + steps * speeds.step + fixed) / _SAFETY


def fitting(speeds: Speeds, seconds: float, documents: int, indexed: int) -> Sizes:
    """The sizes that fit: half of what is free goes to training steps, a quarter each to training text and indexes.

    Args:
        speeds: measured speeds.
        seconds: the time there is.
        documents: number of documents to learn from.
        indexed: number of documents to index.

    Raises:
        TooShort: the time is too short for the smallest sizes.
    """
    documents = min(documents, _MOST_DOCUMENTS)
    least = Sizes(LEAST_STEPS, min(documents, LEAST_DOCUMENTS), min(indexed, LEAST_INDEXED), 0.0)
    free = seconds - seconds_of(speeds, least.steps, least.documents, least.indexed)
    if free < 0:
        raise TooShort(seconds - free)
    rate = _SAFETY * free / 4 * speeds.documents
    chosen = replace(
        least,
        documents=min(documents, least.documents + int(rate / _WITH_QUERIES)),
        indexed=min(indexed, least.indexed + int(rate / INDEXED_TWICE)),
    )
    left = seconds - seconds_of(speeds, 0, chosen.documents, chosen.indexed)
    steps = max(LEAST_STEPS, min(_MOST_STEPS, int(_SAFETY * left / speeds.step)))
    return replace(chosen, steps=steps, seconds=seconds_of(speeds, steps, chosen.documents, chosen.indexed))


class TooShort(Exception):
    """The smallest quickstart takes longer.

    Attributes:
        seconds: how long it takes from now on.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def part_of(corpus: Corpus, queries: QuerySet, size: int, seed: int = 0) -> tuple[Corpus, QuerySet]:
    """A random part of a corpus, and the judged queries whose relevant documents are all in it.

    Args:
        corpus: the documents.
        queries: judged queries.
        size: number of documents.
        seed: random seed.
    """
    documents = list(corpus.documents())
    if size < len(documents):
        chosen = sorted(np.random.default_rng([seed, 7]).permutation(len(documents))[:size].tolist())
        documents = [documents[place] for place in chosen]
    names = {document.doc_id for document in documents}
    lost = {judgement.query_id for judgement in queries.judgements if judgement.doc_id not in names}
    kept = tuple(query for query in queries.queries if query.query_id not in lost)
    judgements = tuple(judgement for judgement in queries.judgements if judgement.query_id not in lost)
    part = Corpus(corpus.name, len(documents), lambda: documents)
    return part, replace(queries, queries=kept, judgements=judgements)
