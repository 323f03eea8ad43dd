"""Imports faiss, makes its process-wide settings, and trains and searches on a GPU. Nothing else imports faiss.

faiss and torch each start an OpenMP pool. OpenMP reads its environment once, when the first of the two is loaded.
By default, idle threads spin and take the cores from threads that work: training product quantisers on busy cores
took 28 s instead of 3 s. `OMP_WAIT_POLICY=PASSIVE` is therefore set here, and by the command line before any heavy
import. A program that imports torch before it calls `load_faiss` should set the variable itself.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.progress import SILENT, Progress


def load_faiss() -> Any:
    """Import faiss and return the module (typed `Any`: faiss ships no type hints).

    Raises:
        MissingPackage: neither faiss-cpu nor faiss-gpu is installed.
    """
    loaded = sys.modules.get("faiss")
    if loaded is not None:
        return loaded  # Every search calls this several times.
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


def read_structure_file(path: Path, flags: int = 0) -> Any:
    """Read a faiss index. Inverted lists on disk must lie in its folder.

    Raises:
        UserError: it names a file outside its folder. faiss would open that file for writing.
        RuntimeError: faiss cannot read it.
    """
    _check_lists(path)
    return load_faiss().read_index(str(path), flags)


def _check_lists(path: Path) -> None:
    for name in _lists_on_disk(path):
        if path.parent.resolve() not in Path(os.path.realpath(name)).parents:
            raise UserError(f"{path} keeps its inverted lists in {name!r}, outside its folder: it is not opened.")


def read_mapped(path: Path) -> Any:
    """Read a faiss index without its inverted lists, which are mapped. They are read where faiss cannot map them.

    Raises:
        UserError: as `read_structure_file` does.
        RuntimeError: faiss cannot read it.
    """
    faiss = load_faiss()
    return read_structure_file(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def read_for_search(path: Path) -> Any:
    """Read a faiss index that is searched and never changed, in memory of large pages.

    A search visits vectors all over a structure. With pages of 4 KB, a fifth of an HNSW search went to finding pages.
    NumPy asks the system for pages of 2 MB where an array is large, and faiss keeps its tables as views of the array.
    The results are those of `read_structure_file`.

    Raises:
        UserError: as `read_structure_file` does.
        RuntimeError: faiss cannot read it.
    """
    import numpy as np

    _check_lists(path)
    faiss = load_faiss()
    data = np.fromfile(path, dtype=np.uint8)
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(data), len(data))
    index = faiss.read_index(reader)
    if reader.rp_ > reader.total_:
        raise RuntimeError(f"{path} ends within a table.")  # The reader gives the last item of a table whole.
    index.referenced_objects = [data]  # SWIG does not know that the index points into it.
    return index


def _lists_on_disk(path: Path) -> Iterator[str]:
    """The names of the files that a faiss index keeps inverted lists in.

    Each name follows four letters and the tables of lists and of free slots (OnDiskInvertedListsIOHook::write).
    """
    mark, step = b"ilod", 1 << 24
    with open(path, "rb") as file:
        found, start, before = [], 0, b""
        while data := file.read(step):
            block = before + data
            place = block.find(mark)
            while place >= 0:
                found.append(start - len(before) + place)
                place = block.find(mark, place + 1)
            start += len(data)
            before = block[1 - len(mark) :]
        for place in found:
            file.seek(place + len(mark) + 16)
            for item in (24, 16):
                file.seek(item * _count(file), os.SEEK_CUR)
                if file.tell() > start:
                    break
            else:
                length = _count(file)
                name = file.read(min(length, 1 << 16))
                if length == len(name) and file.read(8):
                    yield os.fsdecode(name)


def _count(file: IO[bytes]) -> int:
    return min(int.from_bytes(file.read(8), "little"), 1 << 56)


def write_structure(index: Any, path: Path) -> None:
    """Write a faiss index.

    faiss writes through the Python file, so that a full disk is the same OSError as everywhere else.

    Raises:
        OSError: the file cannot be written.
    """
    faiss = load_faiss()
    with atomic_write(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))


MOST_RESULTS = 2048
"""Maximum number of results of a faiss search on a GPU."""


def gpu_count() -> int:
    """Number of GPUs that faiss can use: 0 without any, and where faiss-cpu is installed."""
    count = getattr(load_faiss(), "get_num_gpus", None)
    return int(count()) if count is not None else 0


def is_for_gpu() -> bool:
    """Whether the faiss that is installed can use GPUs, if it sees some."""
    return hasattr(load_faiss(), "StandardGpuResources")


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
    # The index holds plain pointers to these. They are removed before these are freed.
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
    """An `IndexIVFPQ` with the codes of an `IndexIVFPQFastScan`. No GPU reads codes packed for CPU registers.

    It finds the nearest lists by comparing all centroids, even if the index has a graph over them.
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
    config.interleavedLayout = True  # The only layout for codes of four bits.
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
