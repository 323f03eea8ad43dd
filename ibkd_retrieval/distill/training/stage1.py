"""Stage 1 of IBKD: a student learns a frozen teacher's vectors from unlabelled text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.distill.config import DistillSettings
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.dev_metric import Dev
from ibkd_retrieval.distill.teacher.cache import TeacherVectors
from ibkd_retrieval.distill.training.loop import LoopResult, TrainingLoop
from ibkd_retrieval.distill.training.stage1_run import TrainingRun
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class TrainingResult(LoopResult):
    """What training gave, and W [D, d] in float32, None where the objective has none."""

    projection: np.ndarray[Any, np.dtype[np.float32]] | None


def train_student(
    student: SentenceTransformer,
    cache: TeacherVectors,
    texts: TrainingTexts,
    dev: Dev,
    settings: DistillSettings,
    folder: Path,
    origin: str,
    *,
    resume: bool = False,
    tensorboard: Path | None = None,
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
        tensorboard: folder for event files, None for none.
        progress: told of everything.

    Raises:
        UserError: fewer texts than a batch, or a checkpoint of another run.
        WorkFailed: the loss is no longer a number.
    """
    run = TrainingRun(student, cache, texts, settings, progress)
    identity = {
        "settings": settings.as_dict(),
        "texts": texts.fingerprint,
        "dev": dev_identity(dev),
        "teacher": cache.teacher.weight_hash,
        "student": origin,
        "arithmetic": [cache.teacher.dtype, run.module.arithmetic],
    }
    try:
        loop = TrainingLoop(
            run, dev, settings.pace, folder, identity, resume=resume, tensorboard=tensorboard, progress=progress
        )
        result = loop.train("distilling")
        run.finish()
    finally:
        run.close()
    return TrainingResult(result.dev, result.history, result.seconds, result.texts_per_second, run.projection())


def dev_identity(dev: Dev) -> str:
    """What is watched, in a line."""
    return f"{dev.metric} {TrainingTexts(tuple(dev.texts), ()).fingerprint}"
