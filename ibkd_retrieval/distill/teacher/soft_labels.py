"""Soft labels: the scores of a teacher or a cross-encoder for the candidates of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ibkd_retrieval.distill.data.schedule import PairBatch, PairTexts
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from ibkd_retrieval.distill.teacher.cache import TeacherVectors
    from ibkd_retrieval.distill.teacher.cross_encoder_scores import CrossEncoderScores


class SoftLabels(Protocol):
    """Scores of candidates, larger is better; softmax makes a distribution of them."""

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """Scores [n, n + m] of each query's candidates, -inf for those it has no opinion on."""


class TeacherLabels:
    """Cosines of the teacher's vectors over the temperature, for all candidates of a step."""

    def __init__(self, cache: TeacherVectors, texts: PairTexts, temperature: float, progress: Progress) -> None:
        """Look up the texts' vectors; those the cache lacks are computed."""
        self._cache, self._temperature = cache, temperature
        self._rows = np.concatenate(
            [
                cache.rows(texts.texts.documents, "document", progress),
                cache.rows(texts.texts.queries, "query", progress),
            ]
        )

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """Cosines over tau."""
        queries, passages = (self._cache.vectors(self._rows[each]) for each in (batch.queries, batch.passages))
        return queries @ passages.T / np.float32(self._temperature)


class CrossEncoderLabels:
    """A cross-encoder's raw scores, for the candidates that were drawn for the query itself."""

    def __init__(self, scorer: CrossEncoderScores, texts: PairTexts, progress: Progress) -> None:
        """Score every query with its positives and negatives, as far as that was not done before."""
        self._documents = len(texts.texts.documents)
        own = [np.concatenate(parts) for parts in zip(texts.positives, texts.negatives, strict=True)]
        queries = np.repeat(np.arange(len(own)), [len(passages) for passages in own])
        passages = np.concatenate(own)
        words = [
            (texts.texts.queries[query], texts.texts.documents[passage])
            for query, passage in zip(queries.tolist(), passages.tolist(), strict=True)
        ]
        places, first = np.unique(self._places(queries, passages), return_index=True)
        self._known, self._scores = places, scorer.scores(words, progress)[first]

    def _places(self, queries: NDArray[np.int64], passages: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number for each query, counted from 0, with each passage."""
        return queries * self._documents + passages

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """Scores of own candidates, -inf elsewhere."""
        out = np.full((len(batch.queries), len(batch.passages)), -np.inf, dtype=np.float32)
        # Queries stand behind the documents among the texts.
        places = self._places(batch.queries[batch.owner] - self._documents, batch.passages)
        out[batch.owner, np.arange(len(places))] = self._scores[np.searchsorted(self._known, places)]
        return out


def soft_label_loss(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1/n sum_i KL(softmax(labels_i) || softmax(student_i)) over the candidates that have labels.

    Args:
        student: the student's scores over its temperature [n, c], with gradient.
        labels: the targets' scores [n, c], -inf where there is none; at least one a row.
    """
    outside = torch.isinf(labels)
    wanted = labels.log_softmax(1).masked_fill(outside, 0.0)
    found = student.masked_fill(outside, -torch.inf).log_softmax(1).masked_fill(outside, 0.0)
    return (wanted.exp() * (wanted - found)).masked_fill(outside, 0.0).sum(1).mean()
