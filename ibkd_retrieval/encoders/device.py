"""Device, number format, and how the process keeps or releases freed memory."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def choose_device(requested: str) -> str:
    """Resolve "auto" to the GPU where torch sees one, and to the CPU elsewhere.

    Raises:
        UserError: a GPU is asked for and torch sees none, or the name is unknown.
    """
    import torch

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UserError(f"Unknown device `{requested}`: use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"Device `{requested}` was asked for, but torch sees no GPU here: use `device='cpu'`.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"Device `{requested}` was asked for, but torch sees {torch.cuda.device_count()} GPUs here.")
    return requested


def choose_dtype(requested: str, device: str) -> torch.dtype:
    """Resolve "auto" to bfloat16 where the hardware multiplies it natively, and to float32 elsewhere.

    On a CPU with instructions for bfloat16, a short measurement decides. Without them, half precision is emulated and
    slower than float32.
    """
    import torch

    from ibkd_retrieval.encoders.autotune.cpu import bfloat16_is_fast

    if requested not in DTYPES:
        raise UserError(f"Unknown dtype `{requested}`: use one of {', '.join(DTYPES)}.")
    if requested != "auto":
        return getattr(torch, requested)  # type: ignore[no-any-return]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device == "cpu" and bfloat16_is_fast() else torch.float32


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc reuse large blocks instead of returning them to the system. It does nothing elsewhere.

    By default, every block over 32 MB is mapped again, and the kernel clears its pages. That takes a fifth of the time
    of encoding on a CPU. Peak memory stays the same. Freed memory is kept.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_freed_memory_back() -> None:
    """Return unused memory to the system before the memory of this process is measured. glibc only."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
