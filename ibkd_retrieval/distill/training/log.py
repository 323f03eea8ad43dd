"""The training log: the figures of each step, and the time of its parts."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.files import atomic_write
from ibkd_retrieval.json_io import parse

LOG_FILE = "training-log.jsonl"


class TrainingLog:
    """A file with a JSON object per line, each with its `step`."""

    def __init__(self, path: Path, first: int, tensorboard: Path | None = None) -> None:
        """Start a log, or continue one.

        Args:
            path: the file.
            first: number of finished steps. Lines of later steps are dropped, because these steps run again.
            tensorboard: folder for the same figures as TensorBoard events. None writes no events.

        Raises:
            MissingPackage: `tensorboard` is set and the package is not installed.
        """
        self._events = None if tensorboard is None else event_writer(tensorboard, first)
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[bytes] = []
        if first and path.is_file():
            kept = [line for line in path.read_bytes().splitlines() if _done_by(line) <= first]
        with atomic_write(path) as file:
            file.write(b"".join(line + b"\n" for line in kept))

    def write(self, values: dict[str, Any]) -> None:
        """Add a line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if name != "step":
                    self._events.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write the events that are still in memory."""
        if self._events is not None:
            self._events.close()


def require_tensorboard() -> None:
    """Check that events can be written.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingPackage("tensorboard", "`tensorboard`", "tensorboard")


def event_writer(folder: Path, first: int) -> Any:
    """A TensorBoard writer. Events in `folder` of steps from `first` on are ignored.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first or None)


def _done_by(line: bytes) -> float:
    """How many steps are done when a line is written; infinity for one that is damaged or cut off by a kill."""
    try:
        values = parse(line)
        return float(values["step"]) + (1 if "loss" in values else 0)
    except (ValueError, KeyError, TypeError):
        return math.inf


STEP = ("student", "teacher", "objective", "optimiser")
"""The parts that make up a step."""


class StepTimes:
    """The durations of a step's parts, added up over its batches.

    The parts of `STEP` do not overlap: the student's forward and backward pass, looking up teacher vectors including
    the bank, the objective's forward and backward pass down to the student's vectors, and the optimiser. `hsic` is the
    part of `objective` for the forgetting term and its gradient.
    """

    def __init__(self, device: str, *, active: bool) -> None:
        """Measure on `device` if `active`. An inactive clock records nothing."""
        self._device, self._active = device, active
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the part `name`."""
        if not self._active:
            yield
            return
        began = self._now()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - began

    def figures(self) -> dict[str, float]:
        """Milliseconds by part, and the student's share of the step. Empty if nothing was measured."""
        if not self._active:
            return {}
        whole = sum(self._seconds.get(name, 0.0) for name in STEP)
        milliseconds = {f"ms_{name}": 1000 * seconds for name, seconds in self._seconds.items()}
        return milliseconds | {"student_share": self._seconds.get("student", 0.0) / max(whole, 1e-9)}

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            import torch

            # A GPU works asynchronously. Its work must be finished before the clock is read.
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
