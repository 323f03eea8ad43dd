"""Any number of vectors that lie as real ones do, made from fewer real ones; nothing is held but those.

A corpus of millions of encoded texts takes days to encode on a small machine, and random vectors lie nothing like
encoded texts: they have no clusters, and no index finds their neighbours. So vectors are made of real unit vectors X,
row by row, from a seed:

    y = unit(x_i + s / sqrt(3) * sum over m = 1, 2, 3 of g_m (x_j(m) - x_l(m)))

where x_i is any real vector, x_j(m) and x_l(m) are any two of its twenty nearest, the g_m are standard Gaussian, and s
is uniform between two bounds. The differences of neighbours span the directions in which real texts vary about x_i, so
the replicas of one vector spread along the collection and not, as with noise in all dimensions, away from it. As a
collection of real texts grows, the k-th nearest comes nearer and the local dimension stays; `likeness` and `nearness`
say how far the replicas do the same.

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

NEIGHBOURS = 20
DIFFERENCES = 3
SPREAD = (0.3, 1.0)
"""s is uniform between these: replicas that lie close to a real vector, and such as fill the space between."""
QUERIES = 200
CHUNK = 1024


class RealVectors(NamedTuple):
    """Unit vectors to replicate [n, dim], those left out as queries [q, dim], and their nearest [n, 20]."""

    rows: NDArray[np.float32]
    queries: NDArray[np.float32]
    neighbours: NDArray[np.int64]


def read_real(folders: Sequence[Path], cache: Path, seed: int, replicate: bool = True) -> RealVectors:
    """Read `.npy` files, or all of some folders, and find the neighbours, which are kept in `cache`.

    Vectors that are not to be replicated need none, and get none.
    """
    files = [path for folder in folders for path in (sorted(folder.glob("*.npy")) if folder.is_dir() else [folder])]
    if not files:
        raise SystemExit("--vectors holds no .npy files: name folders of float vectors.")
    vectors = np.concatenate([np.load(path, allow_pickle=False).astype(np.float32) for path in files])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left_out = np.zeros(len(vectors), dtype=bool)
    left_out[np.random.default_rng(seed).choice(len(vectors), QUERIES, replace=False)] = True
    rows = vectors[~left_out]
    if not replicate:
        return RealVectors(rows, vectors[left_out], np.empty((0, NEIGHBOURS), dtype=np.int64))
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

    def __init__(self, real: RealVectors, seed: int) -> None:
        self._real = real
        self._seed = seed
        self.dim = real.rows.shape[1]
        self.weight_hash = f"{len(real.rows)}-{seed}-{NEIGHBOURS}-{DIFFERENCES}-{SPREAD}"

    def encode(self, texts: Sequence[str], kind: str = "document", progress: Any = None) -> NDArray[np.float32]:
        """The vectors of the rows that the texts name."""
        rows = np.array([int(text) for text in texts])
        result = np.empty((len(rows), self.dim), dtype=np.float32)
        for chunk in np.unique(rows // CHUNK):
            here = np.flatnonzero(rows // CHUNK == chunk)
            result[here] = self._chunk(int(chunk))[rows[here] % CHUNK]
        if progress is not None:
            progress.advance(len(rows))
        return result

    def _chunk(self, number: int) -> NDArray[np.float32]:
        generator = np.random.default_rng([self._seed, number])
        real = self._real.rows
        first = generator.integers(len(real), size=CHUNK)
        near = self._real.neighbours[first]
        each = np.arange(CHUNK)
        spread = generator.uniform(*SPREAD, size=(CHUNK, 1)) / np.sqrt(DIFFERENCES)
        made = real[first]
        for _ in range(DIFFERENCES):
            one, other = near[each, generator.integers(NEIGHBOURS, size=(2, CHUNK))]
            share = spread * generator.standard_normal((CHUNK, 1))
            made += share.astype(np.float32) * (real[one] - real[other])
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        # As they would be stored in half the bytes.
        return made.astype(np.float16).astype(np.float32)


def numbered(count: int) -> Corpus:
    """Documents whose ids and texts are the numbers of their rows."""
    return Corpus(f"replicas-{count}", count, lambda: (Document(str(row), str(row)) for row in range(count)))


def nearness(cosines: NDArray[np.float32]) -> dict[str, float]:
    """How near neighbours are, from the cosines of the best 100 of each query, best first [q, 100 or more].

    Gives mean cosines of the 1st, 10th and 100th, and the median of the maximum-likelihood estimates of the local
    intrinsic dimension over the 100 (Levina and Bickel 2004).
    """
    distances = np.sqrt(np.maximum(2 - 2 * cosines[:, :100], 1e-12))
    dimension = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]), axis=1)
    found = {f"cosine of nearest {k}": round(float(cosines[:, k - 1].mean()), 4) for k in (1, 10, 100)}
    return {**found, "local intrinsic dimension": round(float(np.median(dimension)), 2)}


def likeness(real: RealVectors, replicas: Replicas, seed: int = 0) -> dict[str, dict[str, float]]:
    """How near the neighbours of the real queries are: among a tenth of the real, all real, and as many replicas.

    The first two say how a collection of real texts changes as it grows tenfold.
    """
    faiss = load_faiss()
    count = len(real.rows)
    tenth = real.rows[np.random.default_rng(seed).choice(count, count // 10, replace=False)]
    made = replicas.encode([str(row) for row in range(count)])
    return {
        name: nearness(faiss.knn(real.queries, table, 100, metric=faiss.METRIC_INNER_PRODUCT)[0])
        for name, table in (("a tenth of the real", tenth), ("all real", real.rows), ("as many replicas", made))
    }
