"""Runs the k-means of training, and the search of a copy of an index, on a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.progress import SILENT, Progress

MOST_RESULTS = 2048
"""Maximum number of results of a faiss search on a GPU."""


def gpu_count() -> int:
    """Number of GPUs that faiss can use: 0 without any, and where faiss-cpu is installed."""
    count = getattr(load_faiss(), "get_num_gpus", None)
    return int(count()) if count is not None else 0


def gpu_number(device: str) -> int:
    """The GPU that a device names: 1 of "cuda:1", and the first of "cuda" and "auto"."""
    number = device.partition(":")[2]
    return int(number) if number.isdecimal() else 0


def is_on_gpu(index: Any) -> bool:
    """Whether an index is on a GPU. It then takes no selector and gives at most `MOST_RESULTS` results."""
    kind = getattr(load_faiss(), "GpuIndex", None)
    return kind is not None and isinstance(index, kind)


@contextmanager
def training_on(device: str, index: Any, progress: Progress) -> Iterator[bool]:
    """A context in which the k-means of an index's training, for lists and product quantisers, runs on `device`.

    The index itself stays in main memory, so every kind of index can be trained this way. "auto" takes a GPU if faiss
    can use one. "cuda" and "cuda:1" report it if there is none. The context gives whether a GPU is used.
    """
    faiss = load_faiss()
    asked = device.startswith("cuda")
    if asked and not gpu_count():
        progress.say(_no_gpu("trained"))
    inverted = faiss.try_extract_index_ivf(index)
    if not (asked or device == "auto") or not gpu_count() or inverted is None:
        yield False
        return
    quantiser = getattr(faiss.downcast_index(inverted), "pq", None)
    number = gpu_number(device)
    # The index holds plain pointers to these, so they are taken back before they go.
    assigning = _on_gpu(faiss.IndexFlat(inverted.d, inverted.quantizer.metric_type), number)
    assigning_parts = None if quantiser is None else _on_gpu(faiss.IndexFlatL2(quantiser.dsub), number)
    inverted.clustering_index = assigning
    if quantiser is not None:
        quantiser.assign_index = assigning_parts
    try:
        yield True
    finally:
        inverted.clustering_index = None
        if quantiser is not None:
            quantiser.assign_index = None


def to_gpu(index: Any, device: str, progress: Progress) -> Any:
    """A copy of an index on the GPU that `device` names. Without such a GPU, the index itself.

    Files are written from indexes in main memory (`faiss.index_gpu_to_cpu`).
    """
    faiss = load_faiss()
    if not gpu_count():
        progress.say(_no_gpu("searched"))
        return index
    try:
        if isinstance(index, faiss.IndexIVFPQFastScan):
            return _codes_on_gpu(with_plain_codes(index), gpu_number(device))
        return _on_gpu(index, gpu_number(device))
    except RuntimeError:
        progress.say(f"faiss has no {type(faiss.downcast_index(index)).__name__} for a GPU: it is searched on the CPU.")
        return index


def with_plain_codes(index: Any) -> Any:
    """The `IndexIVFPQ` with the codes of an `IndexIVFPQFastScan`, whose packing for CPU registers no GPU knows.

    The nearest lists are found by comparing all centroids, where the index has a graph over them.
    """
    import numpy as np

    faiss = load_faiss()
    centroids = faiss.IndexFlat(index.d, index.metric_type)
    centroids.add(index.quantizer.reconstruct_n(0, index.nlist))
    quantiser = index.pq
    plain = faiss.IndexIVFPQ(centroids, index.d, index.nlist, quantiser.M, quantiser.nbits, index.metric_type)
    faiss.copy_array_to_vector(faiss.vector_to_array(quantiser.centroids), plain.pq.centroids)
    plain.by_residual, plain.is_trained = index.by_residual, True
    packer = index.get_CodePacker()
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if not size:
            continue
        blocks = -(-size // packer.nvec)
        packed = faiss.rev_swig_ptr(index.invlists.get_codes(number), blocks * packer.block_size)
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size).copy()
        codes = np.empty((blocks, packer.nvec, plain.code_size), dtype=np.uint8)
        for block in range(blocks):
            here = packed[block * packer.block_size :]
            packer.unpack_all(faiss.swig_ptr(here), faiss.swig_ptr(codes[block]))
        kept = np.ascontiguousarray(codes.reshape(-1, plain.code_size)[:size])
        plain.invlists.add_entries(number, size, faiss.swig_ptr(ids), faiss.swig_ptr(kept))
    plain.ntotal = index.ntotal
    plain.referenced_objects = [centroids]  # SWIG does not know that the index points to it.
    return plain


def _codes_on_gpu(index: Any, number: int) -> Any:
    faiss = load_faiss()
    resources = faiss.StandardGpuResources()
    config = faiss.GpuIndexIVFPQConfig()
    config.device = number
    config.indicesOptions = faiss.INDICES_64_BIT
    config.interleavedLayout = True  # The only one for codes of four bits.
    moved = faiss.GpuIndexIVFPQ(resources, index, config)
    moved.referenced_objects = [resources]
    return moved


def _on_gpu(index: Any, number: int) -> Any:
    faiss = load_faiss()
    options = faiss.GpuMultipleClonerOptions()
    options.indicesOptions = faiss.INDICES_64_BIT
    # The nearest of many lists are found through a graph, which exists in main memory only.
    options.allowCpuCoarseQuantizer = True
    return faiss.index_cpu_to_gpus_list(index, co=options, gpus=[number])


def _no_gpu(done: str) -> str:
    return (
        f"faiss sees no GPU (it takes `pip install 'ibkd-retrieval[gpu]'` and a CUDA device): the index is {done} on "
        "the CPU."
    )


def device_there(device: str, progress: Progress = SILENT) -> str:
    """The given device, or "cpu" with a message if neither torch nor faiss sees a GPU.

    Raises:
        UserError: there is no such device.
    """
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise UserError(f"Unknown device `{device}`: use auto, cpu, cuda or cuda:N.")
    if not device.startswith("cuda"):
        return device
    count = gpu_count()  # faiss before torch: the first to load OpenMP decides how its threads wait.
    import torch

    if torch.cuda.is_available() or count:
        return device
    progress.say(f"No GPU is here, for torch or for faiss: what `device={device}` asks for runs on the CPU.")
    return "cpu"
