"""Distributed training: several processes train one student.

`torchrun` starts them, and `torch.distributed` connects them. These functions also work for a single process.
Each process encodes its share of a batch. All receive all vectors and compute the same loss. So a step is the same for
any number of processes. Only the first process ("rank 0") writes files, fills caches and evaluates on the dev set.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.errors import LostProcess, UserError, WorkFailed

if TYPE_CHECKING:
    import torch

# The others wait while the first encodes a corpus with the teacher. If it dies, torchrun ends them.
_PATIENCE = timedelta(days=30)
_MOST_AXES = 3


def launched() -> bool:
    """Whether torchrun, or a launcher built on it such as `accelerate launch`, started several processes."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> Callable[[], bool]:
    """Join the process group.

    Returns:
        A function that a failing process calls. It returns whether this process failed first and should report it.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://")))
    connect(store, rank, size)

    def first_to_fail() -> bool:
        try:
            return bool(store.add("failures", 1) == 1)
        except dist.DistError:
            # The process that kept the store failed before.
            return False

    return first_to_fail


def connect(store: Any, rank: int, size: int) -> None:
    """Make a group of the `size` processes that share a `store`. GPUs communicate by NCCL, CPUs by gloo."""
    import torch
    import torch.distributed as dist

    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def leave() -> None:
    """Leave the process group when all processes are done."""
    import torch.distributed as dist

    wait()
    dist.destroy_process_group()


_grouped = False
"""Whether another program made the process group of this process."""


def grouped() -> None:
    """Take over the process group that another program made, and may take away when a process of it has ended."""
    global _grouped
    _grouped = True


def count() -> int:
    """The number of processes that train together.

    Raises:
        LostProcess: their group was taken away. This process must not go on alone.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if _grouped:
        raise LostProcess("Another process of this run ended before its work was done.")
    return 1


def is_first() -> bool:
    """Whether this process is the first one, which writes."""
    import torch.distributed as dist

    return count() == 1 or dist.get_rank() == 0


def local_device(device: str) -> str:
    """The device of this process. Each process has its own GPU.

    Raises:
        UserError: there are fewer GPUs than processes, or one GPU is named for several.
    """
    import torch

    if count() == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise UserError(
            f'`device="{device}"` names one GPU for {count()} processes: give `device="cuda"`, one is chosen.'
        )
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise UserError(f"torch sees {gpus} GPUs for the processes of this machine: give --nproc-per-node {gpus}.")
    torch.cuda.set_device(place)
    return f"cuda:{place}"


def check_batch(size: int, name: str) -> None:
    """Check that each process has a text of a batch.

    Raises:
        UserError: there are more processes than texts.
    """
    if size < count():
        raise UserError(f"`{name}` is {size} for {count()} processes, which share it: give at least {count()}.")


def wait() -> None:
    """Wait until all processes call this function."""
    import torch

    if count() > 1:
        _reduce(torch.zeros(1))


@contextmanager
def in_turn() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find its files on disk."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def from_first(compute: Callable[[], NDArray[Any]]) -> NDArray[np.float64]:
    """Compute numbers in the first process and send them to all, as float64."""
    import torch
    import torch.distributed as dist

    if count() == 1:
        return np.asarray(compute(), dtype=np.float64)
    shape = torch.full((_MOST_AXES,), -1, dtype=torch.int64)
    values = torch.empty(0, dtype=torch.float64)
    if is_first():
        values = torch.from_numpy(np.array(compute(), dtype=np.float64))
        shape[: values.dim()] = torch.tensor(values.shape)
    with _together():
        dist.broadcast(shape, 0)
        if not is_first():
            values = torch.empty([size for size in shape.tolist() if size >= 0], dtype=torch.float64)
        dist.broadcast(values, 0)
    return values.numpy()


def text_from_first(compute: Callable[[], str]) -> str:
    """Compute a text in the first process and send it to all."""
    found = from_first(lambda: np.frombuffer(compute().encode("utf-8", "surrogateescape"), dtype=np.uint8))
    return found.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")


def agree(what: str) -> None:
    """Check that all processes are at the same point of the same run. `what` describes that point.

    Raises:
        WorkFailed: a process is at another point.
    """
    import torch

    if count() == 1:
        return
    import torch.distributed as dist

    digest = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7])
    found = torch.tensor([digest, -digest])
    with _together():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    if int(found[0]) != -int(found[1]):
        raise WorkFailed(
            "The processes of this run see different texts, models or checkpoints: give all of them the same options, "
            "and folders that they share."
        )


def share(n: int) -> slice:
    """The texts of a batch of `n` that this process encodes: every k-th, because adjacent texts have similar length."""
    import torch.distributed as dist

    return slice(dist.get_rank() if count() > 1 else 0, n, count())


def gather(parts: Sequence[torch.Tensor], rows: Sequence[NDArray[np.int64]], n: int) -> torch.Tensor:
    """The vectors of all processes [n, d], without gradient.

    Every process computes the whole loss L(s_1, ..., s_n), so its backward pass gives dL/ds_i ds_i/dw summed over its
    own i, and the sum over processes is the whole gradient.

    Args:
        parts: vectors of this process, chunk by chunk.
        rows: their rows. All processes together have every row once.
        n: number of all rows.
    """
    import torch

    if count() == 1 and len(parts) == 1:
        return parts[0]
    # Each row is a vector from one process plus zeros from the others: exact, and the shares may differ in size.
    whole = parts[0].new_zeros((n, parts[0].shape[1]))
    for part, own in zip(parts, rows, strict=True):
        whole[torch.from_numpy(own).to(whole.device)] = part
    if count() > 1:
        _reduce(whole)
    return whole


def sum_gradients(student: Iterable[torch.nn.Parameter], objective: Iterable[torch.nn.Parameter] = ()) -> None:
    """Give every process the whole gradient.

    Args:
        student: parameters whose gradient covers only the process's own texts. The gradients are added.
        objective: parameters with the whole gradient in each process, since all compute the same loss. The gradients
            are averaged, so that all processes continue with the same bits.
    """
    if count() == 1:
        return
    import torch.distributed as dist

    complete = [parameter.grad for parameter in objective if parameter.grad is not None]
    gradients = [parameter.grad for parameter in student if parameter.grad is not None] + complete
    with _together():
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()
    for gradient in complete:
        gradient /= count()


def same_weights(modules: Mapping[str, torch.nn.Module]) -> None:
    """Give every process the first one's weights."""
    if count() == 1:
        return
    import torch.distributed as dist

    with _together():
        for module in modules.values():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)


def _reduce(tensor: torch.Tensor) -> None:
    import torch.distributed as dist

    with _together():
        dist.all_reduce(tensor)


@contextmanager
def _together() -> Iterator[None]:
    """Turn torch's error about a lost process into a readable message."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess("Another process of this run ended before its work was done.") from error
