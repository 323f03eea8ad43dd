"""The training loop of both stages: steps, evaluations, checkpoints, log and early stopping."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.recipe import Pace
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.checkpoint import (
    BestWeights,
    list_checkpoints,
    load_checkpoint,
    read_state,
    remove_checkpoint,
    save_checkpoint,
)
from ibkd_retrieval.distill.training.log import LOG_FILE, TrainingLog
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.encoders.encoder import Encoder

LOG_EVERY = 10
_SHOWN = ("loss", "keep", "regression", "contrast", "soft", "hsic")


@dataclass(frozen=True)
class DevPoint:
    """The dev figure after so many steps."""

    step: int
    value: float


@dataclass(frozen=True)
class LoopResult:
    """The result of a training loop.

    Attributes:
        dev: the dev figure of the weights that are kept.
        history: the dev figure, from before the first step to after the last.
        seconds: wall-clock time spent on steps, over all resumed parts.
        texts_per_second: over those seconds.
    """

    dev: float
    history: tuple[DevPoint, ...]
    seconds: float
    texts_per_second: float


class Trainable(Protocol):
    """What can be trained step by step."""

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """The trained modules, by name."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser."""

    @property
    def rate_name(self) -> str:
        """The parameter that sets the learning rate, for error messages."""

    def start(self) -> None:
        """Prepare for the first step; not called where a checkpoint is taken up."""

    def step(self, number: int, *, detailed: bool) -> dict[str, float]:
        """Run one optimiser step and return its figures, among them `loss` and `gradient`."""

    def untrained(self) -> Encoder:
        """The student as it was initialised, as an encoder of its own."""

    def snapshot(self) -> Encoder:
        """The student as it would be saved now, as an encoder of its own."""


class TrainingLoop:
    """A run and where it stands."""

    def __init__(
        self,
        run: Trainable,
        dev: Dev,
        pace: Pace,
        folder: Path,
        identity: dict[str, Any],
        *,
        resume: bool,
        progress: Progress,
        tensorboard: Path | None = None,
    ) -> None:
        """Take up the newest checkpoint in `folder`, or start anew; of several processes the first alone writes there.

        Args:
            run: the run to train.
            dev: the dev set.
            pace: number of steps, and intervals of evaluations and checkpoints.
            folder: folder of the checkpoints and the log.
            identity: JSON values that a checkpoint must share to be resumed.
            resume: continue from the newest checkpoint, if there is one.
            progress: receives progress reports.
            tensorboard: folder for event files. None writes none.

        Raises:
            UserError: the checkpoint is of another run.
            WorkFailed: processes that train together see different runs.
        """
        self.run, self.dev, self.pace, self.folder, self.progress = run, dev, pace, folder, progress
        self.identity = json.loads(json.dumps(identity))
        self.history: list[DevPoint] = []
        self.done, self.seconds, self.ended = 0, 0.0, False
        self.best = BestWeights(run.modules)
        checkpoints = list_checkpoints(folder)
        if resume and checkpoints:
            self._take_up(checkpoints[-1])
        ranks.agree(json.dumps([self.identity, self.done], sort_keys=True))
        self.log: TrainingLog | None = None
        if ranks.is_first():
            for old in checkpoints if not self.done else []:
                remove_checkpoint(old)
            self.log = TrainingLog(folder / LOG_FILE, self.done, tensorboard)

    def train(self, title: str) -> LoopResult:
        """Run the steps that are left.

        Raises:
            WorkFailed: the loss is no longer a number.
        """
        if not self.history:
            self._evaluate(0, self.run.untrained)
            if ranks.is_first():
                self.run.start()
        ranks.same_weights(self.run.modules)
        try:
            with self.progress.task(title, self.pace.steps, "steps", done=self.done) as task:
                while self.done < self.pace.steps and not self.ended:
                    task.advance(1, self._step(self.done))
        finally:
            if self.log is not None:
                self.log.close()
        value = self.history[-1].value
        if self.pace.patience:
            self.best.restore()
            value = self.best.value
        speed = self.done * self.pace.texts_per_step / max(self.seconds, 1e-9)
        return LoopResult(value, tuple(self.history), self.seconds, speed)

    def _step(self, step: int) -> str:
        began = time.perf_counter()
        at_end = step == self.pace.steps - 1
        logged = step % LOG_EVERY == 0 or at_end
        values = self.run.step(step, detailed=logged)
        self.seconds += time.perf_counter() - began
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient"])):
            raise WorkFailed(_not_a_number(step, list_checkpoints(self.folder), self.run.rate_name))
        self.done = step + 1
        if at_end or (self.pace.eval_every and self.done % self.pace.eval_every == 0):
            self._evaluate(self.done, self.run.snapshot)
        note = ""
        if logged:
            rate = self.done * self.pace.texts_per_step / max(self.seconds, 1e-9)
            self._write({"step": step, "texts_per_second": rate} | values)
            shown = " ".join(f"{key} {values[key]:.4g}" for key in _SHOWN if key in values)
            note = f"{shown} · {rate:.0f} texts/s · dev {self.dev.metric} {self.history[-1].value:.4f}"
        if at_end or self.ended or self.done % self.pace.checkpoint_every == 0:
            self._save()
        return note

    def _write(self, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(values)

    def _evaluate(self, done: int, encoder: Callable[[], Encoder]) -> None:
        value = float(ranks.from_first(lambda: np.array(self.dev.score(encoder()))))
        self.history.append(DevPoint(done, value))
        self._write({"step": done, self.dev.metric: value})
        if self.pace.patience and done:
            self.best.update(value)
            self.ended = self.best.evaluations_since >= self.pace.patience
            if self.ended and done < self.pace.steps:
                self.progress.say(
                    f"no better {self.dev.metric} for {self.pace.patience} evaluations: ending after step {done} of "
                    f"{self.pace.steps} with the best weights"
                )

    @property
    def _modules(self) -> dict[str, Any]:
        return self.run.modules | ({"best": self.best} if self.pace.patience else {})

    def _save(self) -> None:
        if not ranks.is_first():
            return
        state = {
            "identity": self.identity,
            "seconds": self.seconds,
            "history": [{"step": point.step, "value": point.value} for point in self.history],
            "ended": self.ended,
        }
        save_checkpoint(self.folder, self.done, self._modules, self.run.optimizer, state)

    def _take_up(self, checkpoint: Path) -> None:
        state = read_state(checkpoint)
        if state["identity"] != self.identity:
            raise UserError(
                f"{checkpoint} is of another run (differs in {_differs(state['identity'], self.identity)}): "
                "give the same parameters again, or `overwrite` to start anew."
            )
        self.done, self.seconds, self.ended = state["step"], state["seconds"], state["ended"]
        self.history = [DevPoint(point["step"], point["value"]) for point in state["history"]]
        self.best = BestWeights(self.run.modules, [point.value for point in self.history[1:]])
        load_checkpoint(checkpoint, self._modules, self.run.optimizer)
        self.progress.say(f"resuming after step {self.done} of {self.pace.steps}")


def _not_a_number(step: int, checkpoints: list[Path], rate: str) -> str:
    kept = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "no checkpoint was written yet"
    return (
        f"The loss or its gradient is no longer a number at step {step}; {kept}: "
        f'try a lower `{rate}` or `dtype="float32"`.'
    )


_ABSENT = object()


def _differs(found: Any, wanted: dict[str, Any], prefix: str = "") -> str:
    """The names of what differs between two nested dictionaries, or is in one of them alone."""
    names = []
    found = found if isinstance(found, dict) else {}
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        value, other = wanted.get(key, _ABSENT), found.get(key, _ABSENT)
        if isinstance(value, dict):
            names += [name] if (name := _differs(other, value, f"{prefix}{key}.")) else []
        elif other != value:
            names.append(f"{prefix}{key}")
    return ", ".join(names)
