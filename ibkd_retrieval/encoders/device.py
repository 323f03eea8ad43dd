"""Device, number format, how the process keeps or releases freed memory, and the environment that a result records."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.autotune.cpu import processor_name
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


_PACKAGES = (
    "ibkd-retrieval",
    "torch",
    "faiss-cpu",
    "faiss-gpu",
    "transformers",
    "sentence-transformers",
    "numpy",
    "ranx",
)


@dataclass(frozen=True)
class Environment:
    """Machine and software.

    Attributes:
        platform: the operating system and the architecture.
        cpu: the model name of the processor, "" where it is unknown.
        cores: the number of logical processors of the machine.
        threads: the number of threads of torch, or of usable processors where torch is not loaded.
        accelerator: the name of the GPU that torch sees. None without one or where torch is not loaded.
        python: the version of Python.
        packages: the versions of the installed packages by name.
    """

    platform: str
    cpu: str
    cores: int
    threads: int
    accelerator: str | None
    python: str
    packages: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)


def read_environment() -> Environment:
    """Describe this machine and process. It imports no package."""
    # Only a torch that already runs decides anything about the measurements.
    torch: Any = sys.modules.get("torch")
    accelerator = str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None
    return Environment(
        platform=f"{platform.system()} {platform.machine()}",
        cpu=processor_name(),
        cores=os.cpu_count() or 1,
        threads=int(torch.get_num_threads()) if torch is not None else _usable_processors(),
        accelerator=accelerator,
        python=platform.python_version(),
        packages=_versions(),
    )


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
