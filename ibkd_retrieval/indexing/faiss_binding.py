"""The one place where faiss is imported and its process-wide settings are made.

faiss and torch each start an OpenMP pool, and OpenMP reads its environment once, when the first of the two is
loaded. With the default policy idle threads spin and take the cores from those that work (training product
quantisers on busy cores: 28 s instead of 3 s), so `OMP_WAIT_POLICY=PASSIVE` is set here, and again by the command
line before anything heavy. A program that imports torch before this module's `load_faiss` should set it itself.
"""

from __future__ import annotations

import importlib
import os
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


def train_on_gpu(index: Any, progress: Progress) -> None:
    """Let the k-means of an index's training, for lists and for product quantisers, run on the first GPU.

    The index itself stays in main memory, so that every kind of it can be trained so, 4-bit codes included, which
    exist on no GPU. Without a GPU that faiss can use nothing is changed, which is said.
    """
    faiss = load_faiss()
    if not gpu_count():
        progress.say(_no_gpu("trained"))
        return
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is None:
        return
    helpers = [_on_gpu(faiss.IndexFlat(inverted.d, inverted.quantizer.metric_type))]
    inverted.clustering_index = helpers[0]
    quantiser = getattr(faiss.downcast_index(inverted), "pq", None)
    if quantiser is not None:
        helpers.append(_on_gpu(faiss.IndexFlatL2(quantiser.dsub)))
        quantiser.assign_index = helpers[1]
    # The index holds plain pointers to them.
    index.training_helpers = helpers


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
