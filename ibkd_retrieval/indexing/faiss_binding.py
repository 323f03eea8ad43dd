"""The one place where faiss is imported and its process-wide settings are made.

faiss and torch each start an OpenMP pool, and OpenMP reads its environment once, when the first of the two is
loaded. With the default policy idle threads spin and take the cores from those that work (training product
quantisers on busy cores: 28 s instead of 3 s), so `OMP_WAIT_POLICY=PASSIVE` is set here, and again by the command
line before anything heavy. A program that imports torch before this module's `load_faiss` should set it itself.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.progress import Progress


def load_faiss() -> Any:
    """Import faiss and return the module (typed `Any`: faiss ships no type hints).

    Raises:
        MissingPackage: neither faiss-cpu nor faiss-gpu is installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise MissingPackage("faiss", "Building or searching an index", "cpu") from error


def blas_threshold(dim: int) -> None:
    """Make exact search over vectors of length `dim` use BLAS from four queries on.

    faiss compares (queries x dim) with a process-wide threshold of 128,000 since 1.14.2, which leaves 64 queries of
    768 dimensions on a path 13 times slower. One query is as fast either way. Call it before searching.
    """
    load_faiss().cvar.distance_compute_blas_threshold = 4 * dim


def gpu_count() -> int:
    """Number of GPUs that faiss can use: 0 without any, and where faiss-cpu is installed."""
    count = getattr(load_faiss(), "get_num_gpus", None)
    return int(count()) if count is not None else 0


@contextmanager
def training_on(device: str, index: Any, progress: Progress) -> Iterator[None]:
    """While this lasts, the k-means of an index's training, for lists and product quantisers, runs on `device`.

    The index itself stays in main memory, so that every kind of it can be trained so, 4-bit codes included, which
    exist on no GPU. On "cpu", and without a GPU that faiss can use, nothing is changed; the latter is said.
    """
    faiss = load_faiss()
    if device != "cpu" and not gpu_count():
        progress.say(_no_gpu("trained"))
    inverted = faiss.try_extract_index_ivf(index)
    if device == "cpu" or not gpu_count() or inverted is None:
        yield
        return
    quantiser = getattr(faiss.downcast_index(inverted), "pq", None)
    # The index holds plain pointers to these, so they are taken back before they go.
    assigning = _on_gpu(faiss.IndexFlat(inverted.d, inverted.quantizer.metric_type))
    assigning_parts = None if quantiser is None else _on_gpu(faiss.IndexFlatL2(quantiser.dsub))
    inverted.clustering_index = assigning
    if quantiser is not None:
        quantiser.assign_index = assigning_parts
    try:
        yield
    finally:
        inverted.clustering_index = None
        if quantiser is not None:
            quantiser.assign_index = None


def to_gpu(index: Any, progress: Progress) -> Any:
    """A copy of an index on the first GPU for search, or the index itself where there is none or it has no such kind.

    Files are written from indexes in main memory (`faiss.index_gpu_to_cpu`).
    """
    faiss = load_faiss()
    if not gpu_count():
        progress.say(_no_gpu("searched"))
        return index
    try:
        return _on_gpu(index)
    except RuntimeError:
        progress.say(f"faiss has no {type(faiss.downcast_index(index)).__name__} for a GPU: it is searched on the CPU.")
        return index


def _on_gpu(index: Any) -> Any:
    faiss = load_faiss()
    options = faiss.GpuMultipleClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    return faiss.index_cpu_to_gpus_list(index, co=options, gpus=[0])


def _no_gpu(done: str) -> str:
    return (
        f"faiss sees no GPU (it takes `pip install 'ibkd-retrieval[gpu]'` and a CUDA device): the index is {done} on "
        "the CPU."
    )
