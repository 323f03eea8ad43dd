"""Soft labels: the scores of a teacher or a cross-encoder for the candidates of a query."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from ibkd_retrieval.distill.data.batches import PairBatch, PairTexts
from ibkd_retrieval.distill.data.texts import KeyIndex, text_keys
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.distill.teacher.cache import TeacherVectors


_SHARD = 4096


def _keys(pairs: Sequence[tuple[str, str]]) -> NDArray[np.uint64]:
    return text_keys([f"{len(query)} {query}{passage}" for query, passage in pairs])


class CrossEncoderScores:
    """The scores of a cross-encoder by query and passage. They are computed once.

    They are kept in a folder of shards. A shard is `NNNNN.npz` with `keys` (128-bit hashes, uint64 [n, 2]) and `scores`
    (float32 [n]).
    """

    def __init__(self, name: str, folder: Path, *, device: str, max_length: int) -> None:
        """Load the model and its earlier scores.

        Args:
            name: folder or hub name of a cross-encoder that gives one score.
            folder: the parent of the models' folders.
            device: the device of the model.
            max_length: maximum number of tokens of query and passage together.

        Raises:
            UserError: the model cannot be loaded or gives more than one score, or a shard is damaged.
        """
        self._scorer = load_pair_scorer(name, max_length=max_length, device=device)
        self.weight_hash = self._scorer.weight_hash
        self._folder = folder / self.weight_hash[:16]
        self._shards = [self._read(path) for path in sorted(self._folder.glob("[0-9]*.npz"))]

    def scores(self, pairs: Sequence[tuple[str, str]], progress: Progress = SILENT) -> NDArray[np.float32]:
        """The raw score of each (query, passage), [n]. Missing scores are computed first."""
        windows = (pairs[start : start + _SHARD] for start in range(0, len(pairs), _SHARD))
        keys = np.concatenate([np.empty((0, 2), np.uint64), *map(_keys, windows)])
        _, first = np.unique(keys, axis=0, return_index=True)
        missing = first[self._index().find(keys[first]) < 0]
        missing = missing[np.argsort([len(pairs[i][0]) + len(pairs[i][1]) for i in missing], kind="stable")]
        if len(missing):
            with progress.task("cross-encoder scores", len(missing), "pairs") as task:
                for start in range(0, len(missing), _SHARD):
                    part = missing[start : start + _SHARD]
                    self._append(keys[part], self._scorer.score([pairs[i] for i in part], task))
        every = np.concatenate([shard["scores"] for shard in self._shards])
        return every[self._index().find(keys)]

    def _read(self, path: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys, scores = shard["keys"], shard["scores"]
            if keys.shape != (len(scores), 2):
                raise ValueError("it has not one score a key")
        except (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged: delete {self._folder} and run again to rebuild it.") from error
        return {"keys": keys, "scores": scores}

    def _index(self) -> KeyIndex:
        return KeyIndex(np.concatenate([np.empty((0, 2), np.uint64), *(shard["keys"] for shard in self._shards)]))

    def _append(self, keys: NDArray[np.uint64], scores: NDArray[np.float32]) -> None:
        with atomic_write(self._folder / f"{len(self._shards):05d}.npz") as file:
            np.savez(file, keys=keys, scores=scores)
        self._shards.append({"keys": keys, "scores": scores})


class SoftLabels(Protocol):
    """Scores of candidates. Higher is better, and their softmax is the target distribution."""

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """The scores [n, n + m] of each query's candidates. -inf is a candidate without a score."""


class TeacherLabels:
    """The cosines of the teacher's vectors over the temperature, for all candidates of a batch."""

    def __init__(self, cache: TeacherVectors, texts: PairTexts, temperature: float, progress: Progress) -> None:
        """Look up the texts' vectors. Missing vectors are computed."""
        self._cache, self._temperature = cache, temperature
        self._rows = np.concatenate(
            [
                cache.rows(texts.texts.documents, "document", progress),
                cache.rows(texts.texts.queries, "query", progress),
            ]
        )

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """The cosines over tau."""
        queries, passages = (self._cache.vectors(self._rows[each]) for each in (batch.queries, batch.passages))
        return queries @ passages.T / np.float32(self._temperature)


class CrossEncoderLabels:
    """A cross-encoder's raw scores, for the candidates that were drawn for the query itself."""

    def __init__(self, scorer: CrossEncoderScores, texts: PairTexts, progress: Progress) -> None:
        """Score every query with its positives and negatives. Earlier scores are reused."""
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
        """A number for each pair of a query and a passage."""
        return queries * self._documents + passages

    def logits(self, batch: PairBatch) -> NDArray[np.float32]:
        """The scores of a query's own candidates, and -inf for others."""
        out = np.full((len(batch.queries), len(batch.passages)), -np.inf, dtype=np.float32)
        # Among the texts, queries follow the documents.
        places = self._places(batch.queries[batch.owner] - self._documents, batch.passages)
        out[batch.owner, np.arange(len(places))] = self._scores[np.searchsorted(self._known, places)]
        return out


def soft_label_loss(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1/n sum_i KL(softmax(labels_i) || softmax(student_i)) over the candidates that have labels.

    Args:
        student: the student's scores over its temperature [n, c], with gradient.
        labels: the target scores [n, c], at least one per row. -inf is a candidate without a score.
    """
    outside = torch.isinf(labels)
    wanted = labels.log_softmax(1).masked_fill(outside, 0.0)
    found = student.masked_fill(outside, -torch.inf).log_softmax(1).masked_fill(outside, 0.0)
    return (wanted.exp() * (wanted - found)).masked_fill(outside, 0.0).sum(1).mean()
