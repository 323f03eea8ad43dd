"""Semantic textual similarity: the correlation of a model's cosines with human scores of sentence pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.sts import PairSet, read_pairs
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.formatting import csv_table, html_table, latex_escaped, latex_table, text_table
from ibkd_retrieval.evaluation.scores import unique_names
from ibkd_retrieval.evaluation.significance import Interval
from ibkd_retrieval.progress import SILENT, Progress, as_progress

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("model", "pairs of", "pairs", "spearman", "low", "high", "pearson")


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


@dataclass(frozen=True, eq=False, repr=False)
class StsScores:
    """A model on several sets of pairs.

    Attributes:
        model: its name.
        sets: the correlations on each set.
    """

    model: str
    sets: tuple[Similarity, ...]

    def __getitem__(self, name: str) -> Similarity:
        """The correlations on the set of this name."""
        return next(each for each in self.sets if each.name == name)

    @property
    def averages(self) -> tuple[float, float]:
        """Spearman's and Pearson's correlation, averaged over the sets."""
        return fmean(each.spearman for each in self.sets), fmean(each.pearson for each in self.sets)

    def to_json(self) -> dict[str, Any]:
        """JSON types: {"model": NAME, "sets": {NAME: {"pairs", "spearman", "spearman_interval", "pearson"}}}."""
        return {
            "model": self.model,
            "sets": {
                each.name: {
                    "pairs": len(each.scores),
                    "spearman": each.spearman,
                    "spearman_interval": [each.spearman_interval.low, each.spearman_interval.high],
                    "pearson": each.pearson,
                }
                for each in self.sets
            },
        }

    def _rows(self) -> list[list[Any]]:
        return [
            [
                *(self.model, each.name, len(each.scores), each.spearman),
                *(each.spearman_interval.low, each.spearman_interval.high, each.pearson),
            ]
            for each in self.sets
        ]

    def as_csv(self) -> str:
        """One line per set."""
        return csv_table(_COLUMNS, self._rows())

    def as_latex(self) -> str:
        """A `booktabs` table: a row per set."""
        rows = [[latex_escaped(each.name), f"{each.spearman:.4f}", f"{each.pearson:.4f}"] for each in self.sets]
        return latex_table(("Spearman", "Pearson"), [rows], self.model)

    def to_pandas(self) -> pd.DataFrame:
        """A row per set."""
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=list(_COLUMNS))

    def shown(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """The heading and the rows of a table for people; with several sets their average is the last row."""
        rows = []
        for each in self.sets:
            bounds = f"[{each.spearman_interval.low:.4f}, {each.spearman_interval.high:.4f}]"
            rows.append([each.name, f"{len(each.scores):,}", f"{each.spearman:.4f}", bounds, f"{each.pearson:.4f}"])
        if len(self.sets) > 1:
            spearman, pearson = self.averages
            rows.append(["average", "", f"{spearman:.4f}", "", f"{pearson:.4f}"])
        return ("pairs of", "pairs", "spearman", "95% interval", "pearson"), rows

    @property
    def remark(self) -> str:
        """What the figures are."""
        return f"{self.model}: correlation of cosines with people's scores"

    def __repr__(self) -> str:
        return f"{text_table(*self.shown())}\n{self.remark}"

    def _repr_html_(self) -> str:
        return html_table(*self.shown(), self.remark)


def evaluate_sts(
    model: str | os.PathLike[str] | TextEncoder | None,
    data: str | os.PathLike[str] | PairSet | Sequence[str | os.PathLike[str] | PairSet],
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    pooling: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool | Progress = False,
) -> StsScores:
    """Correlate a model's cosines with human scores of sentence pairs.

    Args:
        model: a name, a folder or an encoder. None is the newest student.
        data: a file of scored pairs, a SentEval folder or a `PairSet`; or several of them.
        device: the device to encode on.
        dtype: number format of the encoder.
        backend: backend of the encoder.
        pooling: "mean", "cls" or "lasttoken", in place of the folder's own.
        resamples: bootstrap resamples of the pairs per interval.
        seed: random seed of the resamples.
        progress: receives the number of sentences encoded.

    Raises:
        UserError: there are no pairs, they cannot be read, or there is no such model.

    Example:
        >>> evaluate_sts("models/mine", "sts-benchmark.tsv")["sts-benchmark"].spearman  # doctest: +SKIP
        0.7812
    """
    from ibkd_retrieval.encoders.autotune.choice import sample_texts
    from ibkd_retrieval.encoders.autotune.load import load_encoder, newest_student
    from ibkd_retrieval.indexing.faiss_binding import device_there

    progress = as_progress(progress)
    device = device_there(device, progress)
    given: list[Any] = [data] if isinstance(data, str | os.PathLike | PairSet) else list(data)
    if not given:
        raise UserError("Sentence pairs are needed: name a file or a SentEval folder as `data`.")
    read = [each if isinstance(each, PairSet) else read_pairs(Path(each)) for each in given]
    names = unique_names(
        [each.name for each in read], [each.name if isinstance(each, PairSet) else str(each) for each in given]
    )
    sets = [each._replace(name=called) for each, called in zip(read, names, strict=True)]
    model = newest_student() if model is None else model
    if isinstance(model, str | os.PathLike):
        encoder: TextEncoder = load_encoder(
            os.fspath(model),
            backend,
            dtype,
            lambda: sample_texts(text for pairs in sets for pair in pairs.pairs for text in (pair.first, pair.second)),
            purpose="documents",
            progress=progress,
            device=device,
            pooling=pooling,
        )
        name = os.fspath(model)
    else:
        encoder, name = model, str(getattr(model, "name", "the model"))
    return StsScores(
        name, tuple(similarity_of(encoder, each, samples=resamples, seed=seed, progress=progress) for each in sets)
    )


def similarity_of(
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
        progress: receives the number of sentences encoded.

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
