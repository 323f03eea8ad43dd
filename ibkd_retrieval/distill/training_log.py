"""The figures of a run, step by step."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.files import atomic_write

LOG_FILE = "training-log.jsonl"


class TrainingLog:
    """One JSON object a line, each with its `step`."""

    def __init__(self, path: Path, first: int, tensorboard: Path | None = None) -> None:
        """Start a log, or take one up again.

        Args:
            path: the file.
            first: steps done before; what the log says of later ones is dropped, since it will be said again.
            tensorboard: folder for the same figures as TensorBoard events, None for none.

        Raises:
            MissingPackage: events are asked for and tensorboard is not installed.
        """
        self._events = None if tensorboard is None else event_writer(tensorboard, first)
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[str] = []
        if first and path.is_file():
            kept = [line for line in path.read_text("utf-8").splitlines() if _done_by(line) <= first]
        with atomic_write(path) as file:
            file.write("".join(line + "\n" for line in kept).encode("utf-8"))

    def write(self, values: dict[str, Any]) -> None:
        """Add a line."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if name != "step":
                    self._events.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write out what is still in memory."""
        if self._events is not None:
            self._events.close()


def require_tensorboard() -> None:
    """Make sure that events can be written.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingPackage("tensorboard", "--tensorboard", "tensorboard")


def event_writer(folder: Path, first: int) -> Any:
    """A TensorBoard writer; events of steps from `first` on that are in `folder` already count no more.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first or None)


def _done_by(line: str) -> float:
    """How many steps are done when a line is written; infinity for a line cut off by a kill."""
    try:
        values = json.loads(line)
        return float(values["step"]) + (1 if "loss" in values else 0)
    except (ValueError, KeyError, TypeError):
        return math.inf
