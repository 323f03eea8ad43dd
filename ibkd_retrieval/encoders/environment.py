"""The machine and the software of a measurement, for the record."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from ibkd_retrieval.encoders.autotune.cpu import processor_name

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
