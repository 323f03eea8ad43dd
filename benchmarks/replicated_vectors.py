"""Any number of vectors that lie as real ones do, made from fewer real ones; nothing is held but those.

A corpus of millions of encoded texts takes days to encode on a small machine, and random vectors lie nothing like
encoded texts: they have no clusters, and no index finds their neighbours. So vectors are made of real unit vectors X,
row by row, from a seed:

    y = unit((1 - a) x_i + a x_j + s g)

where x_i is any real vector, x_j with probability 0.9 one of its ten nearest and else any other, a is uniform in
[0, 0.5], and g is Gaussian of expected length 1. Mixes of near neighbours fill the neighbourhoods in which real texts
lie, so clusters and their sizes stay; mixes with any other give the thin space between them; the noise keeps
replicas of one vector apart. `likeness` compares the result with the real vectors at equal number.

Queries are real vectors that are left out of X.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.indexing.faiss_binding import load_faiss

NEIGHBOURS = 10
NEAR = 0.9
LARGEST_SHARE = 0.5
NOISE = 0.35
QUERIES = 200
_CHUNK = 1024


class RealVectors(NamedTuple):
    """Unit vectors to replicate [n, dim], those left out as queries [q, dim], and their nearest [n, 10]."""

    rows: NDArray[np.float32]
    queries: NDArray[np.float32]
    neighbours: NDArray[np.int64]


def read_real(folder: Path, cache: Path, seed: int) -> RealVectors:
    """Read all `.npy` files of a folder and find the neighbours, which are kept in `cache`."""
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise SystemExit(f"{folder} holds no .npy files: name a folder of float vectors with --vectors.")
    vectors = np.concatenate([np.load(path, allow_pickle=False).astype(np.float32) for path in files])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left_out = np.zeros(len(vectors), dtype=bool)
    left_out[np.random.default_rng(seed).choice(len(vectors), QUERIES, replace=False)] = True
    rows = vectors[~left_out]
    path = cache / f"neighbours-{len(rows)}-{seed}.npy"
    if not path.exists():
        nearest = np.concatenate([found for _, found in _blockwise(rows, NEIGHBOURS + 1)])
        own = np.arange(len(rows))[:, None]
        # A row is its own nearest; where texts repeat, it may stand elsewhere or be pushed out by its copies.
        order = np.argsort(nearest == own, axis=1, kind="stable")[:, :NEIGHBOURS]
        with atomic_write(path) as file:
            np.save(file, np.take_along_axis(nearest, order, axis=1))
    return RealVectors(rows, vectors[left_out], np.load(path))


def _blockwise(rows: NDArray[np.float32], k: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    faiss = load_faiss()
    for start in range(0, len(rows), 4096):
        yield faiss.knn(rows[start : start + 4096], rows, k, metric=faiss.METRIC_INNER_PRODUCT)


class Replicas:
    """The vectors of rows 0, 1, 2, ...: row r is the same whatever rows are asked for with it.

    A `TextEncoder` to `build_index`, whose texts are row numbers.
    """

    name = "replicated vectors"
    max_length = 0
    pooling = None
    dtype = "float32"
    device = "cpu"
    prompts: Mapping[str, str] = {"query": "", "document": ""}

    def __init__(self, real: RealVectors, seed: int, noise: float = NOISE) -> None:
        self._real = real
        self._seed = seed
        self._noise = noise
        self.dim = real.rows.shape[1]
        self.weight_hash = f"{len(real.rows)}-{seed}-{NEAR}-{LARGEST_SHARE}-{noise}"

    def encode(self, texts: Sequence[str], kind: str = "document", progress: Any = None) -> NDArray[np.float32]:
        """The vectors of the rows that the texts name."""
        rows = np.array([int(text) for text in texts])
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for chunk in np.unique(rows // _CHUNK):
            here = np.flatnonzero(rows // _CHUNK == chunk)
            result[here] = self._chunk(int(chunk))[rows[here] % _CHUNK]
        if progress is not None:
            progress.advance(len(rows))
        return result

    def _chunk(self, number: int) -> NDArray[np.float32]:
        generator = np.random.default_rng([self._seed, number])
        real = self._real.rows
        first = generator.integers(len(real), size=_CHUNK)
        near = self._real.neighbours[first, generator.integers(NEIGHBOURS, size=_CHUNK)]
        other = np.where(generator.random(_CHUNK) < NEAR, near, generator.integers(len(real), size=_CHUNK))
        share = generator.uniform(0, LARGEST_SHARE, size=(_CHUNK, 1)).astype(np.float32)
        noise = generator.standard_normal((_CHUNK, self.dim), dtype=np.float32)
        noise *= np.float32(self._noise / np.sqrt(self.dim))
        made = (1 - share) * real[first] + share * real[other] + noise
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        # As they would be stored in half the bytes.
        return made.astype(np.float16).astype(np.float32)


def numbered(count: int) -> Corpus:
    """Documents whose ids and texts are the numbers of their rows."""
    return Corpus(f"replicas-{count}", count, lambda: (Document(str(row), str(row)) for row in range(count)))


def likeness(real: RealVectors, replicas: Replicas, sampled: int = 500) -> dict[str, dict[str, float]]:
    """How near the neighbours of real vectors are, and of as many replicas.

    Gives mean cosines of the 1st, 10th and 100th nearest, and the maximum-likelihood estimate of the local intrinsic
    dimension over 100 neighbours (Levina and Bickel 2004), for real queries among real vectors and among replicas.
    """
    faiss = load_faiss()
    count = len(real.rows)
    made = replicas.encode([str(row) for row in range(count)])
    result = {}
    for name, table, queries in (
        ("real among real", real.rows, real.queries),
        ("real among replicas", made, real.queries),
        ("replicas among replicas", made, replicas.encode([str(row) for row in range(count, count + sampled)])),
    ):
        cosines, _ = faiss.knn(queries, table, 100, metric=faiss.METRIC_INNER_PRODUCT)
        distances = np.sqrt(np.maximum(2 - 2 * cosines, 1e-12))
        dimension = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]), axis=1)
        result[name] = {f"cosine of nearest {k}": round(float(cosines[:, k - 1].mean()), 4) for k in (1, 10, 100)}
        result[name]["local intrinsic dimension"] = round(float(np.median(dimension)), 2)
    return result
