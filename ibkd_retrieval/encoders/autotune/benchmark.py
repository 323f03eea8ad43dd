"""How fast this machine runs a model in each backend and number format, beside what its processor could do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ibkd_retrieval.encoders.autotune.choice import (
    PURPOSES,
    Choice,
    Measured,
    Purpose,
    Way,
    cosines_between,
    fastest,
    filling_lanes,
    load_candidates,
    remember_choice,
)
from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, machine_key, matrix_peak, seconds
from ibkd_retrieval.encoders.autotune.load import newest_student
from ibkd_retrieval.encoders.device import choose_device
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT, Progress, as_progress

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.spec import Source
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


@dataclass(frozen=True)
class EncodingBench:
    """What a model reached here in each backend and number format, and which are taken from now on.

    Attributes:
        model: its name.
        corpus: where the documents are from.
        documents: how many were encoded in a run.
        tokens_per_document: their mean length.
        device: where they were encoded.
        machine: the processor and what else decides the figures.
        ways: the figures of each.
        choices: the best for documents and for queries.
    """

    model: str
    corpus: str
    documents: int
    tokens_per_document: float
    device: str
    machine: dict[str, Any]
    ways: tuple[Speed, ...]
    choices: dict[Purpose, Choice]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        choices = {purpose: {"way": str(each.way), "reason": each.reason} for purpose, each in self.choices.items()}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "ways": [speed.to_json() for speed in self.ways], "choices": choices}


def bench_encode(
    model: str | None = None,
    corpus: Source = "pydocs",
    *,
    documents: int = 64,
    rounds: int = 5,
    max_length: int | None = None,
    pooling: str | None = None,
    device: str = "auto",
    progress: bool | Progress = False,
) -> EncodingBench:
    """Run a model in every installed backend and number format, and remember which is best here.

    Args:
        model: a folder or hub name. None is the newest student in `models/`.
        corpus: a name, a path, or the documents to encode.
        documents: how many of them to encode in each run.
        rounds: runs of each backend, in turn. Medians are given.
        max_length: tokens to read of a text. None is the model's own limit.
        pooling: "mean" or "cls", for a plain transformers encoder.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: True for bars, or an object that is told of the work.

    Raises:
        UserError: there is nothing to measure, or the model cannot be loaded.

    Example:
        >>> bench_encode("models/mine", ["a text"], documents=1, rounds=1).choices["queries"].way  # doctest: +SKIP
        Way(backend='torch', dtype='float32')
    """
    from ibkd_retrieval.corpora.spec import open_corpus
    from ibkd_retrieval.encoders.encoder import Encoder

    if documents < 1 or rounds < 1:
        raise UserError("There is nothing to measure: give `documents` and `rounds` of at least 1.")
    progress = as_progress(progress)
    name = model or str(newest_student())
    opened = open_corpus(corpus, progress)
    read = [each.content for each in islice(opened.documents(), documents)]
    if not read:
        raise UserError(f"The corpus {opened.name} holds no documents: there is nothing to encode.")

    def load(backend: str, dtype: str) -> Encoder:
        return Encoder.load(
            name,
            device=device,
            pooling=pooling,
            max_length=max_length,
            backend=backend,
            dtype=dtype,
            sample=read if dtype == "int8" else (),
            progress=SILENT,
        )

    encoders = load_candidates(load, choose_device(device), progress)
    first = next(iter(encoders.values()))
    if first.max_length == 0:
        raise UserError(f"{name} is a static model, which has no transformer to run in one backend or another.")
    tokens = sum(first.token_counts(read)) / len(read)
    progress.say(f"model {name} · {len(read)} documents of {opened.name}, {tokens:.0f} tokens each · {first.device}")
    found = measure_speed(encoders, texts_for(first, read), rounds, progress)
    measured = [speed.as_measured() for speed in found]
    choices = {purpose: fastest(measured, purpose) for purpose in PURPOSES}
    for purpose, choice in choices.items():
        remember_choice(first.weight_hash, first.device, purpose, choice.way)
    return EncodingBench(name, opened.name, len(read), tokens, first.device, machine_key(), tuple(found), choices)


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
