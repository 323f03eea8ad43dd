"""The training loop of both stages: steps, evaluations, checkpoints, log and early stopping."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.sections import TrainingConfig
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
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from ibkd_retrieval.distill.training.optimizer import StudentRun
    from ibkd_retrieval.encoders.encoder import Encoder

LOG_EVERY = 10
_TERMS = {
    "keep": "the keep term: tell the text's teacher vector from others",
    "regression": "1 - cosine to that vector",
    "contrast": "tell a query's passage from others",
    "soft": "divergence from the soft labels",
    "hsic": "the forgetting term: what the vectors still hold of the input",
}
"""The parts of a loss that are shown, in order, and what each measures."""


@dataclass(frozen=True)
class DevPoint:
    """The dev figure after a number of steps."""

    step: int
    value: float


@dataclass(frozen=True)
class LoopResult:
    """The result of a training loop.

    Attributes:
        dev: dev figure of the weights that are kept.
        history: dev figures, from before the first step to after the last one.
        seconds: time spent on steps in seconds, including that before a resume.
        texts_per_second: texts per second of that time.
    """

    dev: float
    history: tuple[DevPoint, ...]
    seconds: float
    texts_per_second: float


@dataclass(frozen=True)
class StageRun:
    """Where and how a stage runs.

    Attributes:
        folder: folder of the checkpoints and the log.
        origin: how the student was made. A resumed run must have the same origin.
        resume: continue from the newest checkpoint in `folder`, if there is one.
        tensorboard: folder for event files. None writes none.
        progress: receives progress reports.
    """

    folder: Path
    origin: str
    resume: bool = False
    tensorboard: Path | None = None
    progress: Progress = SILENT


@dataclass(frozen=True)
class Pace:
    """The length of a run, and its evaluations and checkpoints.

    Attributes:
        steps: total number of optimiser steps.
        texts_per_step: texts per optimiser step, to report the speed.
        training: the intervals of evaluations and checkpoints, and the patience.
    """

    steps: int
    texts_per_step: int
    training: TrainingConfig


def dev_identity(dev: Dev) -> str:
    """The metric and the fingerprint of the dev set, in one line."""
    return f"{dev.metric} {TrainingTexts(tuple(dev.texts), ()).fingerprint}"


class TrainingLoop:
    """A run and its progress."""

    def __init__(self, run: StudentRun, dev: Dev, stage: StageRun, identity: dict[str, Any]) -> None:
        """Continue from the newest checkpoint of `stage`, or start anew. Only the first process writes.

        Args:
            run: the run to train.
            dev: the dev set.
            stage: where and how it runs.
            identity: JSON values that a checkpoint must share to be resumed, beside the dev set and the origin.

        Raises:
            UserError: the checkpoint is of another run.
            WorkFailed: processes that train together see different runs.
        """
        self.run, self.dev, self.pace, self.folder, self.progress = run, dev, run.pace, stage.folder, stage.progress
        identity = identity | {"dev": dev_identity(dev), "student": stage.origin}
        self.identity = json.loads(json.dumps(identity))
        self.history: list[DevPoint] = []
        self.done, self.seconds, self.ended = 0, 0.0, False
        self._explained = False
        self.best = BestWeights(run.modules)
        checkpoints = list_checkpoints(stage.folder)
        if stage.resume and checkpoints:
            self._take_up(checkpoints[-1])
        ranks.agree(json.dumps([self.identity, self.done], sort_keys=True))
        self.log: TrainingLog | None = None
        if ranks.is_first():
            for old in checkpoints if not self.done else []:
                remove_checkpoint(old)
            self.log = TrainingLog(stage.folder / LOG_FILE, self.done, stage.tensorboard)

    def train(self, title: str) -> LoopResult:
        """Run the remaining steps.

        Raises:
            WorkFailed: the loss is not a number.
        """
        if not self.history:
            self._evaluate(0, self.run.untrained)
            if ranks.is_first():
                self.run.start()
        ranks.same_weights(self.run.modules)
        try:
            with self.progress.task(title, self.pace.steps, "steps", done=self.done) as task:
                while self.done < self.pace.steps and not self.ended:
                    task.advance(1, self._step(self.done, title))
        finally:
            if self.log is not None:
                self.log.close()
        value = self.history[-1].value
        if self.pace.training.patience:
            self.best.restore()
            value = self.best.value
        speed = self.done * self.pace.texts_per_step / max(self.seconds, 1e-9)
        return LoopResult(value, tuple(self.history), self.seconds, speed)

    def _step(self, step: int, title: str) -> str:
        began = time.perf_counter()
        at_end = step == self.pace.steps - 1
        logged = step % LOG_EVERY == 0 or at_end
        values = self.run.step(step, detailed=logged)
        self.seconds += time.perf_counter() - began
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient"])):
            raise WorkFailed(_not_a_number(step, list_checkpoints(self.folder), self.run.rate_name))
        self.done = step + 1
        if at_end or (self.pace.training.eval_every and self.done % self.pace.training.eval_every == 0):
            self._evaluate(self.done, self.run.snapshot)
        note = ""
        if logged:
            rate = self.done * self.pace.texts_per_step / max(self.seconds, 1e-9)
            self._write({"step": step, "texts_per_second": rate} | values)
            parts = [key for key in _TERMS if key in values]
            if parts and not self._explained:
                named = ", ".join(f"{key} ({_TERMS[key]})" for key in parts)
                self.progress.say(f"{title}: the loss is a weighted sum of {named}")
            self._explained = True
            shown = " ".join(f"{key} {values[key]:.4g}" for key in ("loss", *parts))
            last = self.history[-1]
            at = f"after step {last.step}" if last.step else "before training"
            note = f"{shown} · {rate:.0f} texts/s · dev {self.dev.metric} {last.value:.4f} ({at})"
        if at_end or self.ended or self.done % self.pace.training.checkpoint_every == 0:
            self._save()
        return note

    def _write(self, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(values)

    def _evaluate(self, done: int, encoder: Callable[[], Encoder]) -> None:
        value = float(ranks.from_first(lambda: np.array(self.dev.score(encoder()))))
        self.history.append(DevPoint(done, value))
        self._write({"step": done, self.dev.metric: value})
        if self.pace.training.patience and done:
            self.best.update(value)
            self.ended = self.best.evaluations_since >= self.pace.training.patience
            if self.ended and done < self.pace.steps:
                self.progress.say(
                    f"no better {self.dev.metric} for {self.pace.training.patience} evaluations: ending after step "
                    f"{done} of {self.pace.steps} with the best weights"
                )

    @property
    def _modules(self) -> dict[str, Any]:
        return self.run.modules | ({"best": self.best} if self.pace.training.patience else {})

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
    """The names of the values that differ between two nested dictionaries."""
    names = []
    found = found if isinstance(found, dict) else {}
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        value, other = wanted.get(key, _ABSENT), found.get(key, _ABSENT)
        if isinstance(value, dict):
            names += [name] if (name := _differs(other, value, f"{prefix}{key}.")) else []
        elif other != value:
            names.append(f"{prefix}{key}")
    return ", ".join(names)
