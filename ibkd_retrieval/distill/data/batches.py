"""The token ids of all texts, and the texts and pairs of each step.

Batches depend on the seed and the step only, so a resumed run gets the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.data.pairs import TrainingPair
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.encoders.prompts import prompt_of
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.encoders.tokens import excluded_prompt_length, pad, tokenize
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# Texts tokenised at a time. A tokenizer's own records take some hundred bytes per token.
_WINDOW = 8192


class TokenIds:
    """The token ids of all texts, in one array of a few bytes per token.

    Attributes:
        prompts: the number of tokens that pooling leaves out of each text, [n].
        lengths: the number of tokens of each text, [n].
    """

    def __init__(self, parts: Sequence[NDArray[np.int32]], lengths: Sequence[int], prompts: NDArray[np.int64]) -> None:
        """Join `parts`. Their texts have `lengths` tokens, of which pooling leaves out the first `prompts`."""
        self.prompts = prompts
        self._ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def features(self, model: SentenceTransformer, positions: NDArray[np.int64]) -> dict[str, Any]:
        """The texts at `positions` as input of the student module."""
        import torch

        if is_static(model):
            texts = [self[int(position)] for position in positions]
            offsets = np.cumsum([0, *(len(text) for text in texts[:-1])])
            flat = {"input_ids": np.concatenate(texts).astype(np.int64), "offsets": offsets.astype(np.int64)}
            return {name: torch.from_numpy(array).to(model.device) for name, array in flat.items()}
        features = pad(model, [self[int(position)] for position in positions])
        prompts = self.prompts[positions]
        return features | ({"prompt_lengths": torch.from_numpy(prompts).to(model.device)} if prompts.any() else {})

    def __getitem__(self, position: int) -> NDArray[np.int32]:
        start = self._ends[position - 1] if position else 0
        return self._ids[start : self._ends[position]]


def training_tokens(
    student: SentenceTransformer, texts: TrainingTexts, max_length: int, progress: Progress = SILENT
) -> TokenIds:
    """Tokenise documents, then queries, each after the student's prompt for its kind.

    Args:
        student: the student, which gives tokenizer, prompts and length limit. It is not changed.
        texts: the texts to tokenise.
        max_length: maximum number of tokens of a text, if the student's own limit is not lower.
        progress: receives the number of texts done.

    Raises:
        UserError: a text cannot be tokenised.
    """
    static = is_static(student)
    limit = student.max_seq_length
    if not static:
        student.max_seq_length = min(max_length, limit or max_length)
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    prompts: list[NDArray[np.int64]] = []
    try:
        with progress.task("tokenising", len(texts), "texts") as task:
            for part, prompt in (
                (texts.documents, prompt_of(student, "document")),
                (texts.queries, prompt_of(student, "query")),
            ):
                prompts.append(np.full(len(part), excluded_prompt_length(student, prompt), dtype=np.int64))
                for start in range(0, len(part), _WINDOW):
                    window = part[start : start + _WINDOW]
                    ids = tokenize(student, window, prompt, first=start)
                    if static:
                        # A static model has no length limit to set.
                        ids = [one[:max_length] for one in ids]
                    lengths += [len(one) for one in ids]
                    parts.append(np.fromiter((token for one in ids for token in one), dtype=np.int32))
                    task.advance(len(ids))
    finally:
        if not static:
            student.max_seq_length = limit
    return TokenIds(parts, lengths, np.concatenate(prompts))


# Maximum number of batches sorted together by length. A larger number means less padding and less mixing.
_GROUP = 32
# Minimum number of groups in an epoch that has as many batches. With a single group, sorting would undo the random
# order, and the same texts would be together in every epoch.
_LEAST_GROUPS = 8


class BatchSchedule:
    """Endless epochs of batches of similar length.

    Args:
        lengths: number of tokens of each text [n].
        batch_size: texts per batch. Each epoch leaves out a random remainder that does not fill a batch.
        seed: random seed of all draws.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = len(lengths) // batch_size
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def batch(self, step: int) -> NDArray[np.int64]:
        """The positions [batch_size] of the texts of a batch. Batches are counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[position]

    def bank(self, step: int, size: int, rows: int) -> NDArray[np.int64]:
        """Draw `size` different positions below `rows` for a step, or all positions if there are fewer."""
        if size >= rows:
            return np.arange(rows)
        return np.random.default_rng([self._seed, 1, step]).choice(rows, size=size, replace=False)

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng([self._seed, 0, epoch])
        # Cut before sorting. Otherwise the longest texts would always be left over.
        order = generator.permutation(len(self._lengths))[: self.steps_per_epoch * self._batch_size]
        group = self._batch_size * max(1, min(_GROUP, self.steps_per_epoch // _LEAST_GROUPS))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]


@dataclass(frozen=True)
class PairBatch:
    """The queries and passages of a batch, as positions among the texts.

    Attributes:
        queries: positions of the queries [n].
        passages: positions of the passages [n + m]: the positive of each query, then all hard negatives.
        owner: the query that each passage was drawn for [n + m], from 0 to n - 1.
        answers: bool [n, n + m]: whether passage j answers query i, though it was drawn for another query or is a copy
            of the positive. Such a passage is not a negative.
    """

    queries: NDArray[np.int64]
    passages: NDArray[np.int64]
    owner: NDArray[np.int64]
    answers: NDArray[np.bool_]


class PairTexts:
    """The distinct texts of pairs, and the pairs as positions among these.

    Attributes:
        texts: passages as documents, then queries.
        positives: positions of the positives of each pair.
        negatives: positions of the negatives of each pair.
    """

    def __init__(self, pairs: Sequence[TrainingPair]) -> None:
        """Number the texts of `pairs`."""
        passages: dict[str, int] = {}
        for pair in pairs:
            for text in (*pair.positives, *pair.negatives):
                passages.setdefault(text, len(passages))
        self.texts = TrainingTexts(tuple(passages), tuple(pair.query for pair in pairs))
        self.positives = [np.array([passages[text] for text in pair.positives], dtype=np.int64) for pair in pairs]
        self.negatives = [np.array([passages[text] for text in pair.negatives], dtype=np.int64) for pair in pairs]

    def draw(self, chosen: NDArray[np.int64], negatives: int, seed: int, step: int) -> PairBatch:
        """Draw a positive and up to `negatives` negatives for each chosen pair."""
        generator = np.random.default_rng([seed, 5, step])
        positives = np.array([generator.choice(self.positives[pair]) for pair in chosen], dtype=np.int64)
        drawn = [
            generator.choice(pool, size=min(negatives, len(pool)), replace=False)
            for pool in (self.negatives[pair] for pair in chosen)
        ]
        passages = np.concatenate([positives, *drawn]).astype(np.int64)
        owner = np.concatenate([np.arange(len(chosen)), np.repeat(np.arange(len(chosen)), [len(d) for d in drawn])])
        answers = np.stack([np.isin(passages, self.positives[pair]) for pair in chosen])
        answers[np.arange(len(chosen)), np.arange(len(chosen))] = False
        return PairBatch(len(self.texts.documents) + chosen, passages, owner, answers)
