"""Which backend and number format run a model fastest here without changing its answers, found out by running them."""

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
from ibkd_retrieval.encoders.autotune.cache import recall, remember
from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast, device_name, machine_key
from ibkd_retrieval.encoders.backends.protocol import installed
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
# What runs a model: a new version may be faster, or not be.
_PACKAGES = ("onnxruntime", "openvino", "nncf", "transformers")
_QUERIES = 12
# Two lengths, so that one of them is padded.
_TRIAL = ("a trial", "of two texts that differ in length")


@dataclass(frozen=True)
class Way:
    """A backend and a number format."""

    backend: str
    dtype: str

    def __str__(self) -> str:
        """As the user names it."""
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True)
class Measured:
    """What one way reached on a sample.

    Attributes:
        documents_per_second: of the sample, or of it over and over, in one go; the median round.
        query_seconds: for a text of a query's length, alone; the median.
        mean_cosine: to float32 torch, over the sample.
        least_cosine: the lowest of them.
    """

    way: Way
    documents_per_second: float
    query_seconds: float
    mean_cosine: float
    least_cosine: float

    @property
    def is_faithful(self) -> bool:
        """Whether its vectors may stand for those of float32."""
        return self.mean_cosine >= MEAN_COSINE and self.least_cosine >= LEAST_COSINE


@dataclass(frozen=True)
class Choice:
    """The way to take, and in a line why."""

    way: Way
    reason: str


def sample_texts(texts: Iterable[str]) -> list[str]:
    """A few of the first texts of a stream, spread so that they are not all neighbours; always the same ones."""
    return list(islice(texts, 0, SAMPLE * _SPREAD, _SPREAD))


def candidates(device: str) -> list[Way]:
    """What could run a model here, the exact one first; formats that the processor only emulates are not among them."""
    if device != "cpu":
        return [Way("torch", "float32"), Way("torch", "float16"), Way("torch", "bfloat16")]
    half = bfloat16_is_fast()
    ways = [Way("torch", "float32")]
    ways += [Way("torch", "bfloat16")] if half else []
    if "onnx" in installed():
        ways += [Way("onnx", "float32"), Way("onnx", "int8")]
    if "openvino" in installed():
        ways += [Way("openvino", "float32")] + ([Way("openvino", "bfloat16")] if half else [])
        ways += [Way("openvino", "int8")] if _has("nncf") else []
    return ways


def remembered_choice(weight_hash: str, device: str, purpose: Purpose) -> Way | None:
    """What was chosen before for this model, on this machine with the same packages; None where nothing was."""
    kept = recall("backend", _key(weight_hash, device, purpose))
    return Way(**kept) if isinstance(kept, dict) and set(kept) == {"backend", "dtype"} else None


def choose(
    load: Load, texts: Sequence[str], device: str, purpose: Purpose = "documents", progress: Progress = SILENT
) -> Choice:
    """Run what is installed on a sample, in turn, and take the fastest whose vectors are those of float32; remember it.

    Args:
        load: loads the model to run in a backend and a number format.
        texts: such as will be encoded.
        device: where.
        purpose: many documents in one go, or one query at a time.
        progress: told what was taken and why, and what could not be run.

    Raises:
        UserError: the model cannot be loaded at all.
    """
    encoders = load_candidates(load, device, progress)
    choice = fastest(measure(encoders, texts), purpose)
    remember_choice(next(iter(encoders.values())).weight_hash, device, purpose, choice.way)
    progress.say(choice.reason)
    return choice


def load_candidates(load: Load, device: str, progress: Progress = SILENT) -> dict[Way, Encoder]:
    """An encoder for each way that runs a model here, the exact one first; those that do not are told of.

    Raises:
        UserError: the model cannot be loaded at all.
    """
    encoders: dict[Way, Encoder] = {}
    for way in candidates(device):
        try:
            encoder = load(way.backend, way.dtype)
            if encoder.max_length == 0:  # Static models are run in one way.
                return {way: encoder}
            encoder.encode(_TRIAL)
        except Exception as error:  # Runtimes and converters have classes of their own, and nobody asked for this one.
            if not encoders:
                raise
            progress.say(f"{way} is left out: {why(error)}")
        else:
            encoders[way] = encoder
    return encoders


def why(error: Exception) -> str:
    """Why something failed: this toolkit's own sentence, or the first line of what a library says."""
    if isinstance(error, UserError | WorkFailed):
        return str(error)
    said = first_line(error)
    return f"{type(error).__name__} ({said})" if said else type(error).__name__


def remember_choice(weight_hash: str, device: str, purpose: Purpose, way: Way) -> None:
    """Have `backend="auto"` take a way from now on, for this model on this machine."""
    remember("backend", _key(weight_hash, device, purpose), asdict(way))


def measure(encoders: dict[Way, Encoder], texts: Sequence[str], rounds: int = _ROUNDS) -> list[Measured]:
    """Time each encoder on the same texts, in turn, and hold its vectors against those of the first."""
    many = filling_lanes(next(iter(encoders.values())), texts)
    seconds: dict[Way, list[float]] = {way: [] for way in encoders}
    alone: dict[Way, list[float]] = {way: [] for way in encoders}
    vectors: dict[Way, NDArray[np.float32]] = {}
    query = " ".join(texts[0].split()[:_QUERIES]) if texts else ""
    for way, encoder in encoders.items():  # To warm up, and for the vectors.
        vectors[way] = encoder.encode(texts)
        encoder.encode([query], "query")
    for _ in range(rounds):
        for way, encoder in encoders.items():
            seconds[way].append(_seconds(encoder.encode, many))
            alone[way] += [_seconds(encoder.encode, [query], "query") for _ in range(_QUERIES)]
    exact = next(iter(vectors.values()))
    found = []
    for way in encoders:
        cosines = cosines_between(vectors[way], exact)
        found.append(
            Measured(
                way,
                len(many) / statistics.median(seconds[way]),
                statistics.median(alone[way]),
                float(cosines.mean()),
                float(cosines.min()),
            )
        )
    return found


def fastest(measured: Sequence[Measured], purpose: Purpose) -> Choice:
    """The fastest of those whose vectors may stand for the first's, which is the exact one."""

    def speed(one: Measured) -> float:
        return one.documents_per_second if purpose == "documents" else 1 / one.query_seconds

    exact = measured[0]
    best = max((one for one in measured if one is exact or one.is_faithful), key=speed)
    refused = [one for one in measured if speed(one) > speed(best)]
    reason = f"{best.way} for {purpose}: {_pace(best, purpose)}"
    if best is not exact:
        reason += f" against {_pace(exact, purpose)} with {exact.way}, cosine {_cosines(best)}"
    for one in refused:
        reason += f"; {one.way} would give {_pace(one, purpose)}, but its cosine to float32 is {_cosines(one)}"
    return Choice(best.way, reason)


def cosines_between(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row with the same row of the other, [n]; 1 where both are zero."""
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


def _key(weight_hash: str, device: str, purpose: Purpose) -> dict[str, Any]:
    packages = {name: metadata.version(name) for name in _PACKAGES if _has(name)} | {"ibkd-retrieval": __version__}
    return {
        **machine_key(),
        "weights": weight_hash,
        "device": device,
        "device_name": device_name(device),
        "purpose": purpose,
        "packages": packages,
    }


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


# With fewer, much of a run is its last batches, which are computed one by one.
_BATCHES_A_LANE = 4


def filling_lanes(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Texts over and over, until an encoder computes most of them side by side as it does those of a corpus.

    Where it computes batch after batch, and where they are many already, each text is there once.
    """
    if encoder.batches_at_once == 1 or not texts:
        return list(texts)
    batches = _BATCHES_A_LANE * encoder.batches_at_once + 1
    tokens_each = max(1.0, sum(encoder.token_counts(texts)) / len(texts))
    wanted = math.ceil(batches * encoder.batch_tokens / tokens_each)
    return list(islice(cycle(texts), max(len(texts), wanted)))
