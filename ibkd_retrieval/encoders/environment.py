"""What measurements were made on, recorded beside them."""

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
        platform: operating system and architecture.
        cpu: model name of the processor, "" where the system does not tell.
        cores: logical processors of the machine.
        threads: processors this process may use, or torch's threads where torch is loaded.
        accelerator: name of the GPU that torch sees, None without one or where torch is not loaded.
        python: version.
        packages: version by name, of those installed.
    """

    platform: str
    cpu: str
    cores: int
    threads: int
    accelerator: str | None
    python: str
    packages: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


def read_environment() -> Environment:
    """Look at this machine and process; loads nothing that is not loaded."""
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
