"""Trains the centroids of inverted lists by k-means, with matrix products by torch.

faiss's own k-means spends nearly all its time on the products of vectors and centroids. torch's matrix product is
several times as fast as that of faiss, and more so on processors that multiply in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.faiss_binding import load_faiss

WORTH_TORCH = 10_000_000_000
"""Number of multiplications per iteration from which importing torch is worth its time."""

_ITERATIONS = 10
"""Iterations of k-means, as many as faiss makes for inverted lists."""

_SCORES_AT_ONCE = 4 << 20


def place_centroids(index: Any, training: NDArray[np.float32], seed: int) -> None:
    """Train the transformations before the inverted lists of an index, and place the centroids of the lists.

    The index's own `train` then trains only the codes. Nothing is done if there are no lists, if they are so few that
    faiss is as fast, or if the structure that finds the lists must be trained itself.

    Args:
        index: a faiss index by inner product, not trained.
        training: vectors [n, dim].
        seed: random seed for the initial centroids.
    """
    faiss = load_faiss()
    lists = faiss.try_extract_index_ivf(index)
    if lists is None or len(training) < lists.nlist or len(training) * lists.nlist * lists.d < WORTH_TORCH:
        return
    outer = faiss.downcast_index(index)
    if isinstance(outer, faiss.IndexPreTransform):
        for number in range(outer.chain.size()):
            transform = faiss.downcast_VectorTransform(outer.chain.at(number))
            if not transform.is_trained:
                transform.train(training)
            training = transform.apply(training)
    if training.shape[1] == lists.d and lists.quantizer.is_trained and not lists.quantizer.ntotal:
        lists.quantizer.add(spherical_centroids(training, lists.nlist, seed))


def spherical_centroids(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors [count, dim] near which `vectors` [n, dim] lie, by inner product.

    A centroid to which no vector belongs takes half of the largest cluster, as in faiss.
    """
    import torch

    table = torch.from_numpy(np.ascontiguousarray(vectors))
    generator = np.random.default_rng(seed)
    centroids = table[torch.from_numpy(generator.choice(len(vectors), count, replace=False))].clone()
    height = max(1, _SCORES_AT_ONCE // count)
    with torch.inference_mode(), _fast_products():
        for _ in range(_ITERATIONS):
            centroids /= centroids.norm(dim=1, keepdim=True).clamp_min(1e-12)
            sums = torch.zeros_like(centroids)
            sizes = torch.zeros(count, dtype=torch.int64)
            for start in range(0, len(table), height):
                block = table[start : start + height]
                nearest = (block @ centroids.T).argmax(dim=1)
                sums.index_add_(0, nearest, block)
                sizes += torch.bincount(nearest, minlength=count)
            _fill_empty(sums, sizes)
            centroids = sums
        centroids /= centroids.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return np.asarray(centroids.numpy(), dtype=np.float32)


def _fill_empty(sums: Any, sizes: Any) -> None:
    """Split the largest clusters slightly, so that the next iteration divides their vectors."""
    for empty in (sizes == 0).nonzero().ravel().tolist():
        largest = int(sizes.argmax())
        apart = 1 / 1024
        sums[empty] = sums[largest]
        sums[empty, ::2] *= 1 + apart
        sums[empty, 1::2] *= 1 - apart
        sums[largest, ::2] *= 1 - apart
        sums[largest, 1::2] *= 1 + apart
        half = int(sizes[largest]) // 2
        sizes[empty] = half
        sizes[largest] -= half


@contextmanager
def _fast_products() -> Iterator[None]:
    """A context in which torch may round factors to bfloat16, on processors that support it. Sums are float32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
