"""An encoder, corpora and a listener for tests of indexes."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.errors import UserError


class HashingEncoder:
    """Gives each text a unit vector drawn from its hash, and remembers what it was asked to encode."""

    name = "hashing"
    max_length = 128
    pooling = None
    dtype = "float32"
    device = "cpu"

    def __init__(self, dim: int = 16, weight_hash: str = "0a", sleep: float = 0.0) -> None:
        self.dim = dim
        self.weight_hash = weight_hash
        self.prompts = {"query": "", "document": ""}
        self.sleep = sleep
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str], kind: str = "document", progress=None) -> np.ndarray:
        time.sleep(self.sleep)
        self.encoded += texts
        vectors = np.stack([self.vector(text) for text in texts])
        if progress is not None:
            progress.advance(len(texts))
        return vectors

    def vector(self, text: str) -> np.ndarray:
        seed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]
        vector = np.random.default_rng(int.from_bytes(seed, "little")).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class TableEncoder(HashingEncoder):
    """Gives the text "i" the i-th row of a table."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__(table.shape[1])
        self.table = table.astype(np.float32)

    def vector(self, text: str) -> np.ndarray:
        return self.table[int(text)]


@dataclass(frozen=True)
class LoadFake:
    """Makes an encoder in a process of its own; what goes wrong there goes wrong at the text named."""

    at: str = ""
    fault: str = ""
    sleep: float = 0.0
    dim: int = 16

    def __call__(self, number: int, count: int) -> HashingEncoder:
        if self.fault == "loading":
            raise UserError("There is no such model.")
        return _Faulty(self)


class _Faulty(HashingEncoder):
    def __init__(self, load: LoadFake) -> None:
        super().__init__(load.dim, sleep=load.sleep)
        self.load = load

    def encode(self, texts, kind="document", progress=None):
        if any(text == self.load.at for text in texts):
            if self.load.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.load.fault == "user":
                raise UserError("Text number 3 is no text.")
            if self.load.fault == "system":
                raise OSError(5, "Input/output error", "/models/weights")
            if self.load.fault == "work":
                raise RuntimeError("out of memory")
            if self.load.fault == "nan":
                return np.full((len(texts), self.dim), np.nan, np.float32)
        return super().encode(texts, kind, progress)


class Listener:
    """Progress that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done: dict[str, int] = {}

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[_Counter]:
        self.done[title] = done
        yield _Counter(self.done, title)

    def say(self, message: str) -> None:
        self.said.append(message)


class _Counter:
    def __init__(self, done: dict[str, int], title: str) -> None:
        self.done, self.title = done, title

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done[self.title] += count


def corpus_of(documents: Sequence[Document], name: str = "made-up") -> Corpus:
    return Corpus(name, len(documents), lambda: list(documents))


def numbered_corpus(count: int) -> Corpus:
    return corpus_of([Document(f"d{i}", f"text of document {i}", f"title {i}" if i % 2 else "") for i in range(count)])


def table_corpus(count: int) -> Corpus:
    return corpus_of([Document(f"d{i}", str(i)) for i in range(count)])


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors shaped like real ones: topics of uneven size, few directions that matter, a common mean."""
    generator = np.random.default_rng(seed)
    topics = generator.normal(size=(60, 24))
    chosen = generator.choice(60, count, p=generator.dirichlet(np.full(60, 0.7)))
    latent = topics[chosen] + 0.8 * generator.normal(size=(count, 24))
    rows = np.tanh(latent @ generator.normal(size=(24, dim)) / 4) + 0.1 * generator.normal(size=(count, dim)) + 0.2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Telling(HashingEncoder):
    """Gives as every vector what its process may use: threads, cores, and the first of them."""

    def encode(self, texts, kind="document", progress=None):
        import torch

        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        told = [torch.get_num_threads(), int(os.environ.get("RAYON_NUM_THREADS", 0)), len(cores), *cores[:1]]
        return np.tile(np.array(told, np.float32), (len(texts), 1))


@dataclass(frozen=True)
class LoadTelling:
    def __call__(self, number, count):
        return Telling()
