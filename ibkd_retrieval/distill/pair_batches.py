"""Which texts of which pairs each step of stage 2 sees, decided by the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.pairs import TrainingPair
from ibkd_retrieval.distill.texts import TrainingTexts


@dataclass(frozen=True)
class PairBatch:
    """One step's queries and passages, as positions among the texts.

    Attributes:
        queries: [n].
        passages: [n + m]: the positive of each query, then all hard negatives.
        owner: [n + m]: which of the n queries a passage was drawn for.
        answers: bool [n, n + m]: passage j answers query i though it was drawn for another, or is a copy of its
            positive: no negative of it.
    """

    queries: NDArray[np.int64]
    passages: NDArray[np.int64]
    owner: NDArray[np.int64]
    answers: NDArray[np.bool_]


class PairTexts:
    """The texts of pairs, each once, and the pairs as positions among them.

    Attributes:
        texts: passages, then queries.
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
        """One positive and up to `negatives` negatives for each chosen pair."""
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
