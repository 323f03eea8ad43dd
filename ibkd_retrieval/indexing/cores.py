"""Which cores each of several processes takes: an equal part, and no other's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def take_share(number: int, count: int) -> None:
    """Pin this process, number `number` of `count` from 0, to its part of the cores, with a thread for each of them.

    A process left to the scheduler moves between cores and leaves its caches behind; where the system does not allow
    pinning, it has its number of threads alone. The libraries that start threads read it when they are first imported.
    """
    threads = max(1, min(len(_cores()) // count, available_threads()))
    if hasattr(os, "sched_setaffinity"):
        # Where it is forbidden, things are slower, and no more than that.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, share_of(_cores(), number, count))
    for variable in _THREADS:
        os.environ[variable] = str(threads)


def share_of(cores: Sequence[int], number: int, count: int) -> Sequence[int]:
    """The part of `cores` for process `number` of `count`: as many for each, at least one, and neighbours together."""
    each = max(1, len(cores) // count)
    start = number % (len(cores) // each) * each
    return cores[start : start + each]


def available_threads() -> int:
    """As many as this process has cores, or what the user asked OpenMP for where that is less."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(len(_cores()), int(asked) if asked.isdecimal() else len(_cores())))


def _cores() -> list[int]:
    """The logical cores this process may use, those of one physical core and of one socket together."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=_place)


def _place(core: int) -> tuple[int, int, int]:
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, physical = ((topology / name).read_text("ascii") for name in ("physical_package_id", "core_id"))
        return int(package), int(physical), core
    except (OSError, ValueError):
        return 0, core, core
