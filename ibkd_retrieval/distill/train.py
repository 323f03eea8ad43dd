"""Stage 1 of IBKD: a student learns a frozen teacher's vectors from unlabelled text."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.distill.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    read_state,
    remove_checkpoint,
    save_checkpoint,
)
from ibkd_retrieval.distill.dev import Dev
from ibkd_retrieval.distill.settings import DistillSettings
from ibkd_retrieval.distill.teacher_cache import TeacherCache
from ibkd_retrieval.distill.texts import TrainingTexts
from ibkd_retrieval.distill.training_log import LOG_FILE, TrainingLog
from ibkd_retrieval.distill.training_run import TrainingRun
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LOG_EVERY = 10


@dataclass(frozen=True)
class DevPoint:
    """The dev figure after so many steps."""

    step: int
    value: float


@dataclass(frozen=True)
class TrainingResult:
    """What training gave.

    Attributes:
        projection: W [D, d] in float32, None where the objective has none.
        history: the dev figure, from before the first step to after the last.
        seconds: wall-clock time spent on steps, over all resumed parts.
        texts_per_second: over those seconds.
    """

    projection: np.ndarray[Any, np.dtype[np.float32]] | None
    history: tuple[DevPoint, ...]
    seconds: float
    texts_per_second: float


def train_student(
    student: SentenceTransformer,
    cache: TeacherCache,
    texts: TrainingTexts,
    dev: Dev,
    settings: DistillSettings,
    folder: Path,
    origin: str,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainingResult:
    """Train `student` in place.

    Args:
        student: float32 model on its device.
        cache: vectors of the teacher; those of texts it lacks are computed first.
        texts: what to learn from.
        dev: what to watch.
        settings: the recipe.
        folder: where checkpoints and the log go.
        origin: how the untrained student was made; a resumed run must say the same.
        resume: go on from the newest checkpoint in `folder`, if there is one.
        progress: told of everything.

    Raises:
        UserError: fewer texts than a batch, or a checkpoint of another run.
        WorkFailed: the loss is no longer a number.
    """
    run = TrainingRun(student, cache, texts, settings, progress)
    try:
        return _train(run, texts, dev, folder, origin, resume=resume, progress=progress)
    finally:
        run.close()


def _train(
    run: TrainingRun, texts: TrainingTexts, dev: Dev, folder: Path, origin: str, *, resume: bool, progress: Progress
) -> TrainingResult:

    settings = run.settings
    identity = {
        "settings": settings.as_dict(),
        "texts": texts.fingerprint,
        "dev": f"{dev.metric} {TrainingTexts(tuple(dev.texts), ()).fingerprint}",
        "teacher": run.cache.teacher.weight_hash,
        "student": origin,
    }
    history: list[DevPoint] = []
    first, seconds = 0, 0.0
    checkpoints = list_checkpoints(folder)
    if resume and checkpoints:
        state = read_state(checkpoints[-1])
        if state["identity"] != identity:
            raise UserError(
                f"{checkpoints[-1]} is of another run (differs in {_differs(state['identity'], identity)}): "
                "give the same options again, or --overwrite to start anew."
            )
        load_checkpoint(checkpoints[-1], run.modules, run.optimizer)
        first, seconds = state["step"], state["seconds"]
        history = [DevPoint(point["step"], point["value"]) for point in state["history"]]
        progress.say(f"resuming after step {first} of {settings.steps}")
    else:
        for old in checkpoints:
            remove_checkpoint(old)
    log = TrainingLog(folder / LOG_FILE, first)
    if not history:
        run.start_projection()
        history.append(DevPoint(0, dev.score(run.untrained())))
        log.write({"step": 0, dev.metric: history[-1].value})
    note = ""
    with progress.task("distilling", settings.steps, "steps", done=first) as task:
        for step in range(first, settings.steps):
            began = time.perf_counter()
            logged = step % LOG_EVERY == 0 or step == settings.steps - 1
            values = run.step(step, detailed=logged)
            seconds += time.perf_counter() - began
            if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient"])):
                raise WorkFailed(_not_a_number(step, list_checkpoints(folder)))
            done = step + 1
            at_end = done == settings.steps
            if at_end or (settings.eval_every and done % settings.eval_every == 0):
                history.append(DevPoint(done, dev.score(run.snapshot())))
                log.write({"step": done, dev.metric: history[-1].value})
            if logged:
                rate = (done * settings.batch_size) / max(seconds, 1e-9)
                log.write({"step": step, "texts_per_second": rate} | values)
                shown = " ".join(f"{key} {values[key]:.4g}" for key in ("loss", "keep", "hsic") if key in values)
                note = f"{shown} · {rate:.0f} texts/s · dev {dev.metric} {history[-1].value:.4f}"
            task.advance(1, note)
            if done % settings.checkpoint_every == 0 and not at_end:
                state = {
                    "identity": identity,
                    "seconds": seconds,
                    "history": [{"step": point.step, "value": point.value} for point in history],
                }
                save_checkpoint(folder, done, run.modules, run.optimizer, state)
    speed = settings.steps * settings.batch_size / max(seconds, 1e-9)
    return TrainingResult(run.projection(), tuple(history), seconds, speed)


def _not_a_number(step: int, checkpoints: list[Path]) -> str:
    kept = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "no checkpoint was written yet"
    return (
        f"The loss or its gradient is no longer a number at step {step}; {kept}: "
        "try a lower --learning-rate or --dtype float32."
    )


def _differs(found: Any, wanted: dict[str, Any], prefix: str = "") -> str:
    """The names of what differs between two nested dictionaries."""
    names = []
    for key, value in wanted.items():
        other = found.get(key) if isinstance(found, dict) else None
        if isinstance(value, dict):
            names += [name] if (name := _differs(other, value, f"{prefix}{key}.")) else []
        elif other != value:
            names.append(f"{prefix}{key}")
    return ", ".join(names)
