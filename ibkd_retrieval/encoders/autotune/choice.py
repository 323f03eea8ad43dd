"""The choice of the fastest backend configuration that keeps the vectors of a model, by measurement."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval import __version__
from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, device_name, machine_key, recall, remember
from ibkd_retrieval.encoders.backends.backend import installed
from ibkd_retrieval.errors import UserError, WorkFailed, first_line
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.encoder import Encoder

Purpose = Literal["documents", "queries"]
Load = Callable[[str, str], "Encoder"]

PURPOSES: tuple[Purpose, ...] = ("documents", "queries")
MEAN_COSINE, LEAST_COSINE = 0.999, 0.995
SAMPLE = 96
_SPREAD = 16
_ROUNDS = 3
# A new version of these packages may be faster or slower.
_PACKAGES = ("onnxruntime", "openvino", "nncf", "transformers")
_QUERIES = 12
# Two lengths, so that one of them is padded.
_TRIAL = ("a trial", "of two texts that differ in length")


@dataclass(frozen=True)
class BackendConfig:
    """A backend and a number format.

    Attributes:
        backend: "torch", "onnx" or "openvino".
        dtype: "float32", "bfloat16", "float16" or "int8".
    """

    backend: str
    dtype: str

    def __str__(self) -> str:
        """Return the backend and the number format, as in "torch float32"."""
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True)
class Measured:
    """The figures of one backend configuration on a sample.

    Attributes:
        config: the backend and the number format.
        documents_per_second: documents encoded per second, the median of the rounds. A small sample is repeated.
        query_seconds: the median time for one text as long as a query.
        mean_cosine: the mean cosine to the vectors of torch in float32, over the sample.
        least_cosine: the lowest of these cosines.
    """

    config: BackendConfig
    documents_per_second: float
    query_seconds: float
    mean_cosine: float
    least_cosine: float

    @property
    def is_faithful(self) -> bool:
        """Whether the vectors are close enough to those of float32."""
        return self.mean_cosine >= MEAN_COSINE and self.least_cosine >= LEAST_COSINE


@dataclass(frozen=True)
class Choice:
    """The chosen configuration.

    Attributes:
        config: the backend and the number format.
        reason: the figures that decided, in one line.
    """

    config: BackendConfig
    reason: str


def sample_texts(texts: Iterable[str]) -> list[str]:
    """Take a spread sample of the first texts of a stream. The same stream gives the same sample."""
    return list(islice(texts, 0, SAMPLE * _SPREAD, _SPREAD))


def candidates(device: str) -> list[BackendConfig]:
    """List the configurations that can run here, the exact one first. Emulated number formats are left out."""
    if device != "cpu":
        return [
            BackendConfig("torch", "float32"),
            BackendConfig("torch", "float16"),
            BackendConfig("torch", "bfloat16"),
        ]
    half = bfloat16_is_fast()
    configs = [BackendConfig("torch", "float32")]
    configs += [BackendConfig("torch", "bfloat16")] if half else []
    if "onnx" in installed():
        configs += [BackendConfig("onnx", "float32"), BackendConfig("onnx", "int8")]
    if "openvino" in installed():
        configs += [BackendConfig("openvino", "float32")] + ([BackendConfig("openvino", "bfloat16")] if half else [])
        configs += [BackendConfig("openvino", "int8")] if _has("nncf") else []
    return configs


def remembered_choice(weight_hash: str, device: str, purpose: Purpose) -> BackendConfig | None:
    """Return the earlier choice for this model, this machine and these packages; None where there is none."""
    return recalled(choice_key(weight_hash, device, purpose))


def recalled(key: dict[str, Any]) -> BackendConfig | None:
    """Return what was chosen under a key of `choice_key`."""
    kept = recall("backend", key)
    return BackendConfig(**kept) if isinstance(kept, dict) and set(kept) == {"backend", "dtype"} else None


def choose(
    load: Load, texts: Sequence[str], device: str, purpose: Purpose = "documents", progress: Progress = SILENT
) -> Choice:
    """Measure the configurations on a sample, and remember the fastest that keeps the vectors of float32.

    Those for documents and for queries are remembered, because one measurement shows both.

    Args:
        load: the function that loads the model in a backend and a number format.
        texts: a sample of the texts to encode.
        device: the torch device.
        purpose: "documents" (many at once) or "queries" (one at a time): the choice to return.
        progress: the display. It shows the choices, their reasons, and the configurations that cannot run.

    Raises:
        UserError: the model cannot be loaded at all.
    """
    encoders = load_candidates(load, device, progress)
    measured, weights = measure(encoders, texts), next(iter(encoders.values())).weight_hash
    choices = {each: fastest(measured, each) for each in PURPOSES}
    for each, choice in choices.items():
        remember_choice(weights, device, each, choice.config)
        progress.say(choice.reason)
    return choices[purpose]


def load_candidates(load: Load, device: str, progress: Progress = SILENT) -> dict[BackendConfig, Encoder]:
    """Load an encoder for each configuration that runs here, the exact one first. Failures go to `progress`.

    Raises:
        UserError: the model cannot be loaded at all.
    """
    encoders: dict[BackendConfig, Encoder] = {}
    for config in candidates(device):
        try:
            encoder = load(config.backend, config.dtype)
            if encoder.max_length == 0:  # A static model has one configuration.
                return {config: encoder}
            encoder.encode(_TRIAL)
        except Exception as error:  # Each runtime has its own error classes. This is optional.
            if not encoders:
                raise
            progress.say(f"{config} is left out: {why(error)}")
        else:
            encoders[config] = encoder
    return encoders


def why(error: Exception) -> str:
    """Describe an error: the message of this package, or the first line of a library's message."""
    if isinstance(error, UserError | WorkFailed):
        return str(error)
    said = first_line(error)
    return f"{type(error).__name__} ({said})" if said else type(error).__name__


def remember_choice(weight_hash: str, device: str, purpose: Purpose, config: BackendConfig) -> None:
    """Store the configuration that `backend="auto"` uses for this model on this machine."""
    remember("backend", choice_key(weight_hash, device, purpose), asdict(config))


def measure(encoders: dict[BackendConfig, Encoder], texts: Sequence[str], rounds: int = _ROUNDS) -> list[Measured]:
    """Time each encoder on the same texts, in turn, and compare its vectors with those of the first."""
    many = filling_threads(next(iter(encoders.values())), texts)
    seconds: dict[BackendConfig, list[float]] = {config: [] for config in encoders}
    alone: dict[BackendConfig, list[float]] = {config: [] for config in encoders}
    vectors: dict[BackendConfig, NDArray[np.float32]] = {}
    query = " ".join(texts[0].split()[:_QUERIES]) if texts else ""
    for config, encoder in encoders.items():  # To warm up, and for the vectors.
        vectors[config] = encoder.encode(texts)
        encoder.encode([query], "query")
    for _ in range(rounds):
        for config, encoder in encoders.items():
            seconds[config].append(_seconds(encoder.encode, many))
            alone[config] += [_seconds(encoder.encode, [query], "query") for _ in range(_QUERIES)]
    exact = next(iter(vectors.values()))
    found = []
    for config in encoders:
        cosines = cosines_between(vectors[config], exact)
        found.append(
            Measured(
                config,
                len(many) / statistics.median(seconds[config]),
                statistics.median(alone[config]),
                float(cosines.mean()),
                float(cosines.min()),
            )
        )
    return found


def fastest(measured: Sequence[Measured], purpose: Purpose) -> Choice:
    """Choose the fastest configuration whose vectors are close enough to those of the first, the exact one."""

    def speed(one: Measured) -> float:
        return one.documents_per_second if purpose == "documents" else 1 / one.query_seconds

    exact = measured[0]
    best = max((one for one in measured if one is exact or one.is_faithful), key=speed)
    refused = [one for one in measured if speed(one) > speed(best)]
    reason = f"{best.config} for {purpose}: {_pace(best, purpose)}"
    if best is not exact:
        reason += f" against {_pace(exact, purpose)} with {exact.config}, cosine {_cosines(best)}"
    for one in refused:
        reason += f"; {one.config} would give {_pace(one, purpose)}, but its cosine to float32 is {_cosines(one)}"
    return Choice(best.config, reason)


def cosines_between(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row with the same row of the other, [n]. It is 1 where both are zero."""
    norms = np.linalg.norm(left.astype(np.float64), axis=1) * np.linalg.norm(right.astype(np.float64), axis=1)
    products = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    cosines: NDArray[np.float64] = np.where(
        norms > 0, products / np.where(norms > 0, norms, 1.0), (left == right).all(axis=1)
    )
    return cosines


def _pace(one: Measured, purpose: Purpose) -> str:
    if purpose == "documents":
        return f"{one.documents_per_second:,.3g} documents/s"
    return f"{1000 * one.query_seconds:,.3g} ms"


def _cosines(one: Measured) -> str:
    return f"{one.mean_cosine:.5f} on average and {one.least_cosine:.5f} at least"


def _seconds(work: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def choice_key(weight_hash: str, device: str, purpose: Purpose) -> dict[str, Any]:
    """Return what a choice depends on, of JSON types."""
    return {
        **machine_key(),
        "weights": weight_hash,
        "device": device,
        "device_name": device_name(device),
        "purpose": purpose,
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Return the versions of the installed packages that a choice depends on."""
    return {name: metadata.version(name) for name in _PACKAGES if _has(name)} | {"ibkd-retrieval": __version__}


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


# The last batches are computed one by one. With fewer batches they would take much of a run.
_BATCHES_A_THREAD = 4


def filling_threads(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Repeat texts until an encoder computes most of them in parallel threads, as it does with a corpus.

    The texts are not repeated where the encoder uses one thread, or where there are enough of them.
    """
    if encoder.batches_at_once == 1 or not texts:
        return list(texts)
    batches = _BATCHES_A_THREAD * encoder.batches_at_once + 1
    tokens_each = max(1.0, sum(encoder.token_counts(texts)) / len(texts))
    wanted = math.ceil(batches * encoder.batch_tokens / tokens_each)
    return list(islice(cycle(texts), max(len(texts), wanted)))
