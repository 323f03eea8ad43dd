"""Semantic textual similarity: do a model's cosines order sentence pairs as people do?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.sts import PairSet
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.significance import Interval
from ibkd_retrieval.progress import SILENT, Progress


@dataclass(frozen=True, eq=False)
class Similarity:
    """A model on one set of pairs.

    Attributes:
        name: of the set.
        spearman: rank correlation of cosines and human scores over all pairs, the figure the literature reports
            (times 100 there).
        pearson: linear correlation.
        spearman_interval: by percentile bootstrap over pairs.
        cosines: float64 [n].
        scores: human scores, float64 [n].
    """

    name: str
    spearman: float
    pearson: float
    spearman_interval: Interval
    cosines: NDArray[np.float64]
    scores: NDArray[np.float64]


def evaluate_sts(
    encoder: TextEncoder,
    pairs: PairSet,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Similarity:
    """Encode each sentence once and correlate.

    The prompts for queries and documents are left out: they are for retrieval. The evaluator of sentence-transformers
    does the same. All pairs of a set count together, as in
    SentEval's "all" setting, and are not averaged over its parts.

    Args:
        encoder: the model.
        pairs: scored pairs.
        samples: bootstrap resamples of pairs for the interval.
        confidence: of the interval.
        seed: of the resamples.
        progress: told of the sentences encoded.

    Raises:
        UserError: the scores are all equal, so nothing correlates with them, or there are no resamples.
    """
    if samples < 1:
        raise UserError(f"A bootstrap needs at least 1 sample: got {samples}.")
    scores = np.array([pair.score for pair in pairs.pairs])
    if np.ptp(scores) == 0:
        raise UserError(f"All pairs of {pairs.name} have the score {scores[0]:g}: nothing can correlate with them.")
    sentences = list(dict.fromkeys(text for pair in pairs.pairs for text in pair[:2]))
    with progress.task(f"Encoding {pairs.name}", len(sentences), "sentences") as task:
        symmetric = getattr(encoder, "for_sentences", lambda: encoder)()
        vectors = symmetric.encode(sentences, "document", task).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    row = {text: position for position, text in enumerate(sentences)}
    first = vectors[[row[pair.first] for pair in pairs.pairs]]
    second = vectors[[row[pair.second] for pair in pairs.pairs]]
    cosines = np.einsum("nd,nd->n", first, second)
    low, high = _interval(cosines, scores, samples, confidence, seed)
    spearman, pearson = correlations(cosines, scores)
    return Similarity(
        pairs.name, spearman, pearson, Interval(spearman, low, high, confidence, samples, seed), cosines, scores
    )


def correlations(cosines: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Spearman's and Pearson's correlation; 0 where the cosines are all equal, which order nothing."""
    if np.ptp(cosines) == 0:
        return 0.0, 0.0
    return _pearson(_ranks(cosines), _ranks(scores)), _pearson(cosines, scores)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return rankdata(values)  # type: ignore[no-any-return]


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _interval(
    cosines: NDArray[np.float64], scores: NDArray[np.float64], samples: int, confidence: float, seed: int
) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = generator.integers(0, len(scores), len(scores))
        if np.ptp(scores[drawn]) > 0:
            values.append(correlations(cosines[drawn], scores[drawn])[0])
    if not values:
        # No resample told the scores apart, so that nothing is known.
        return -1.0, 1.0
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
