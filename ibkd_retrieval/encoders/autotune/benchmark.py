"""How fast this machine runs a model in each backend and number format, beside what its processor could do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ibkd_retrieval.encoders.autotune.choice import Measured, Way, cosines_between, filling_lanes
from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, matrix_peak, seconds
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

_PEAK_SIZE = 2048
SHORT_TOKENS = 48
QUERY_TOKENS = (8, 32)
_QUERY_ROUNDS = 8


class Texts(NamedTuple):
    """What is encoded: documents as they are, their beginnings, and queries of two lengths, each alone."""

    long: list[str]
    short: list[str]
    queries: Mapping[int, list[str]]


class Latency(NamedTuple):
    """Median and 95th percentile of the time for one query, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Speed:
    """What one way of running a model reached.

    Attributes:
        way: backend and number format.
        long_per_second: documents as they are, all in one go, over and over where they are few; the median round.
        short_per_second: their beginnings.
        queries: by length in tokens, one at a time.
        mean_cosine: to the first way, over long and short texts.
        least_cosine: the lowest of them.
        operations_per_second: multiplications and additions of the transformer on the long texts, without padding.
        peak: the same in a large matrix product of the same format, None where there is none worth the name.
    """

    way: Way
    long_per_second: float
    short_per_second: float
    queries: Mapping[int, Latency]
    mean_cosine: float
    least_cosine: float
    operations_per_second: float
    peak: float | None

    @property
    def share_of_peak(self) -> float | None:
        """Of what the processor does in a large matrix product."""
        return self.operations_per_second / self.peak if self.peak else None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        queries = {str(tokens): latency._asdict() for tokens, latency in self.queries.items()}
        return {**asdict(self), "queries": queries, "share_of_peak": self.share_of_peak}

    def as_measured(self) -> Measured:
        """What the choice between ways goes by."""
        shortest = self.queries[min(self.queries)]
        return Measured(self.way, self.long_per_second, shortest.p50 / 1000, self.mean_cosine, self.least_cosine)


def texts_for(encoder: Encoder, documents: Sequence[str], queries: int = 16) -> Texts:
    """Short texts and queries of set lengths, cut from documents at word boundaries."""
    return Texts(
        list(documents),
        [first_tokens(encoder, text, SHORT_TOKENS) for text in documents],
        {most: [first_tokens(encoder, text, most) for text in documents[:queries]] for most in QUERY_TOKENS},
    )


def first_tokens(encoder: Encoder, text: str, most: int) -> str:
    """The longest run of first words of a text that has at most `most` tokens, special ones included; at least one."""
    words = text.split()[:most]
    while len(words) > 1 and encoder.token_counts([" ".join(words)])[0] > most:
        words.pop()
    return " ".join(words)


def measure_speed(
    encoders: Mapping[Way, Encoder], texts: Texts, rounds: int = 5, progress: Progress = SILENT
) -> list[Speed]:
    """Time each encoder on the same texts, in turn, round by round; the first is what cosines are held against."""
    first = next(iter(encoders.values()))
    work = {"long": filling_lanes(first, texts.long), "short": filling_lanes(first, texts.short)}
    taken: dict[tuple[Way, str], list[float]] = {(way, name): [] for way in encoders for name in work}
    alone: dict[tuple[Way, int], list[float]] = {(way, tokens): [] for way in encoders for tokens in texts.queries}
    vectors = {
        way: np.concatenate([encoder.encode(part) for part in (texts.long, texts.short)])
        for way, encoder in encoders.items()
    }
    peaks = {dtype: _peak(dtype, encoders) for dtype in {way.dtype for way in encoders}}
    with progress.task("Measuring", rounds * len(encoders), "runs") as task:
        for _ in range(rounds):
            for way, encoder in encoders.items():
                for name, part in work.items():
                    taken[way, name] += seconds(partial(encoder.encode, part), 1, warm=True)
                for tokens, queries in texts.queries.items():
                    encoder.encode(queries[:1], "query")
                    for query in queries * max(1, _QUERY_ROUNDS // len(queries)):
                        alone[way, tokens] += seconds(partial(encoder.encode, [query], "query"), 1, warm=True)
                task.advance(1, note=str(way))
    exact = next(iter(vectors.values()))
    operations = first.operations(work["long"])
    found = []
    for way in encoders:
        cosines = cosines_between(vectors[way], exact)
        long = statistics.median(taken[way, "long"])
        found.append(
            Speed(
                way,
                len(work["long"]) / long,
                len(work["short"]) / statistics.median(taken[way, "short"]),
                {tokens: _latency(alone[way, tokens]) for tokens in texts.queries},
                float(cosines.mean()),
                float(cosines.min()),
                operations / long,
                peaks[way.dtype],
            )
        )
    return found


def _latency(found: Sequence[float]) -> Latency:
    middle, high = np.percentile(1000 * np.asarray(found), [50, 95])
    return Latency(float(middle), float(high))


def _peak(dtype: str, encoders: Mapping[Way, Encoder]) -> float | None:
    import torch

    device = next(iter(encoders.values())).device
    # Where half precision is emulated, the product alone takes minutes.
    if dtype == "int8" or (device == "cpu" and dtype != "float32" and not bfloat16_is_fast()):
        return None
    return matrix_peak(getattr(torch, dtype), _PEAK_SIZE if device == "cpu" else 8192, device)
