"""Benchmark of a model in each backend configuration, compared with the peak of the processor."""

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
    BackendConfig,
    Choice,
    Measured,
    Purpose,
    cosines_between,
    fastest,
    filling_threads,
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
    """The texts of a benchmark.

    Attributes:
        long: whole documents.
        short: the beginnings of the documents.
        queries: queries by length in tokens. Each is encoded alone.
    """

    long: list[str]
    short: list[str]
    queries: Mapping[int, list[str]]


class Latency(NamedTuple):
    """The time for one query, in milliseconds.

    Attributes:
        p50: the median.
        p95: the 95th percentile.
    """

    p50: float
    p95: float


@dataclass(frozen=True)
class Speed:
    """The speed and the accuracy of one backend configuration.

    Attributes:
        config: the backend and the number format.
        long_per_second: whole documents encoded per second, the median of the rounds. Few documents are repeated.
        short_per_second: beginnings of documents encoded per second.
        queries: the latency by query length in tokens, one query at a time.
        mean_cosine: the mean cosine to the vectors of the first configuration, over long and short texts.
        least_cosine: the lowest of these cosines.
        operations_per_second: multiplications and additions per second of the transformer on long texts, without
            padding.
        peak: operations per second of a large matrix product in the same format. None where it is not measured.
    """

    config: BackendConfig
    long_per_second: float
    short_per_second: float
    queries: Mapping[int, Latency]
    mean_cosine: float
    least_cosine: float
    operations_per_second: float
    peak: float | None

    @property
    def share_of_peak(self) -> float | None:
        """The share of the peak that the transformer reaches."""
        return self.operations_per_second / self.peak if self.peak else None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        queries = {str(tokens): latency._asdict() for tokens, latency in self.queries.items()}
        plain = asdict(self)
        return {"way": plain.pop("config"), **plain, "queries": queries, "share_of_peak": self.share_of_peak}

    def as_measured(self) -> Measured:
        """The figures that the choice between configurations uses."""
        shortest = self.queries[min(self.queries)]
        return Measured(self.config, self.long_per_second, shortest.p50 / 1000, self.mean_cosine, self.least_cosine)


@dataclass(frozen=True)
class EncodingBench:
    """The figures of a model in each backend configuration, and the configurations chosen.

    Attributes:
        model: the name of the model.
        corpus: the name of the corpus.
        documents: the number of documents encoded in a run.
        tokens_per_document: the mean length of a document.
        device: the torch device.
        machine: the processor, its features, the number of threads and the version of torch.
        configs: the figures of each configuration.
        choices: the best configuration for documents and for queries.
    """

    model: str
    corpus: str
    documents: int
    tokens_per_document: float
    device: str
    machine: dict[str, Any]
    configs: tuple[Speed, ...]
    choices: dict[Purpose, Choice]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        choices = {purpose: {"way": str(each.config), "reason": each.reason} for purpose, each in self.choices.items()}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("configs", "choices")}
        return {**plain, "ways": [speed.to_json() for speed in self.configs], "choices": choices}


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
        pooling: "mean", "cls" or "lasttoken", in place of the folder's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: True for bars, or a display object.

    Raises:
        UserError: there is nothing to measure, or the model cannot be loaded.

    Example:
        >>> bench_encode("models/mine", ["a text"], documents=1, rounds=1).choices["queries"].config  # doctest: +SKIP
        BackendConfig(backend='torch', dtype='float32')
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
        remember_choice(first.weight_hash, first.device, purpose, choice.config)
    return EncodingBench(name, opened.name, len(read), tokens, first.device, machine_key(), tuple(found), choices)


def texts_for(encoder: Encoder, documents: Sequence[str], queries: int = 16) -> Texts:
    """Cut short texts and queries of set lengths from documents, at word boundaries."""
    return Texts(
        list(documents),
        [first_tokens(encoder, text, SHORT_TOKENS) for text in documents],
        {most: [first_tokens(encoder, text, most) for text in documents[:queries]] for most in QUERY_TOKENS},
    )


def first_tokens(encoder: Encoder, text: str, most: int) -> str:
    """Return the first words of a text that have at most `most` tokens with special tokens; at least one word."""
    words = text.split()[:most]
    while len(words) > 1 and encoder.token_counts([" ".join(words)])[0] > most:
        words.pop()
    return " ".join(words)


def measure_speed(
    encoders: Mapping[BackendConfig, Encoder], texts: Texts, rounds: int = 5, progress: Progress = SILENT
) -> list[Speed]:
    """Time each encoder on the same texts, in turn in every round. Cosines are to the vectors of the first."""
    first = next(iter(encoders.values()))
    work = {"long": filling_threads(first, texts.long), "short": filling_threads(first, texts.short)}
    taken: dict[tuple[BackendConfig, str], list[float]] = {(config, name): [] for config in encoders for name in work}
    alone: dict[tuple[BackendConfig, int], list[float]] = {
        (config, tokens): [] for config in encoders for tokens in texts.queries
    }
    vectors = {
        config: np.concatenate([encoder.encode(part) for part in (texts.long, texts.short)])
        for config, encoder in encoders.items()
    }
    peaks = {dtype: _peak(dtype, encoders) for dtype in {config.dtype for config in encoders}}
    with progress.task("Measuring", rounds * len(encoders), "runs") as task:
        for _ in range(rounds):
            for config, encoder in encoders.items():
                for name, part in work.items():
                    taken[config, name] += seconds(partial(encoder.encode, part), 1, warm=True)
                for tokens, queries in texts.queries.items():
                    encoder.encode(queries[:1], "query")
                    for query in queries * max(1, _QUERY_ROUNDS // len(queries)):
                        alone[config, tokens] += seconds(partial(encoder.encode, [query], "query"), 1, warm=True)
                task.advance(1, note=str(config))
    exact = next(iter(vectors.values()))
    operations = first.operations(work["long"])
    found = []
    for config in encoders:
        cosines = cosines_between(vectors[config], exact)
        long = statistics.median(taken[config, "long"])
        found.append(
            Speed(
                config,
                len(work["long"]) / long,
                len(work["short"]) / statistics.median(taken[config, "short"]),
                {tokens: _latency(alone[config, tokens]) for tokens in texts.queries},
                float(cosines.mean()),
                float(cosines.min()),
                operations / long,
                peaks[config.dtype],
            )
        )
    return found


def _latency(found: Sequence[float]) -> Latency:
    middle, high = np.percentile(1000 * np.asarray(found), [50, 95])
    return Latency(float(middle), float(high))


def _peak(dtype: str, encoders: Mapping[BackendConfig, Encoder]) -> float | None:
    import torch

    device = next(iter(encoders.values())).device
    # Where half precision is emulated, the product alone takes minutes.
    if dtype == "int8" or (device == "cpu" and dtype != "float32" and not bfloat16_is_fast()):
        return None
    return matrix_peak(getattr(torch, dtype), _PEAK_SIZE if device == "cpu" else 8192, device)
