"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP = ("student", "teacher", "objective", "optimiser")
"""The parts that make up a step."""


class StepTimes:
    """Durations of a step's parts, added up over its batches.

    The parts of `STEP` are apart from each other: the student's forward and backward pass; looking up teacher vectors,
    those of the bank too; the objective's forward and backward pass, down to the student's vectors; the optimiser.
    `hsic` is within `objective`: the forgetting term and its gradient.
    """

    def __init__(self, device: str, *, active: bool) -> None:
        """Measure on `device` where `active`; a clock that is not costs nothing and says nothing."""
        self._device, self._active = device, active
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs within as `name`."""
        if not self._active:
            yield
            return
        began = self._now()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - began

    def figures(self) -> dict[str, float]:
        """Milliseconds by part, and the student's share of the step; nothing where not measured."""
        if not self._active:
            return {}
        whole = sum(self._seconds.get(name, 0.0) for name in STEP)
        milliseconds = {f"ms_{name}": 1000 * seconds for name, seconds in self._seconds.items()}
        return milliseconds | {"student_share": self._seconds.get("student", 0.0) / max(whole, 1e-9)}

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            import torch

            # A GPU works behind Python's back: what was asked of it must be done before the clock is read.
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
