"""The student on disk: a sentence-transformers folder with a model card and `ibkd.json`."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval import __version__
from ibkd_retrieval.distill.config import DistillSettings
from ibkd_retrieval.distill.output.card import model_card
from ibkd_retrieval.distill.output.folder import CHECKPOINTS, FINETUNING, FINISHED
from ibkd_retrieval.distill.training.checkpoint import sync_files
from ibkd_retrieval.distill.training.log import LOG_FILE
from ibkd_retrieval.encoders.environment import Environment
from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.weights import former_weight_hash, weight_hash
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.config import FinetuneSettings
    from ibkd_retrieval.distill.teacher.joint import JointTeacher
    from ibkd_retrieval.distill.training.loop import DevPoint
    from ibkd_retrieval.encoders.encoder import Encoder

PROJECTION = "projection.safetensors"
FINETUNING_LOG = "finetuning-log.jsonl"


@dataclass(frozen=True)
class EncoderFacts:
    """One encoder in the card's table.

    Attributes:
        name: as the user named it.
        weight_hash: of the weights that were measured.
        dev: the dev figure.
        dim: length of a vector.
        embedding_parameters: in token and position tables.
        transformer_parameters: in all else.
        texts_per_second: while encoding the dev texts; comparable within one card only.
        dtype: the arithmetic it was trained or asked in, which "auto" became.
    """

    name: str
    weight_hash: str
    dev: float
    dim: int
    embedding_parameters: int
    transformer_parameters: int
    texts_per_second: float
    dtype: str

    @classmethod
    def of(cls, encoder: Encoder | JointTeacher, dev: float, texts_per_second: float) -> EncoderFacts:
        """Read the facts off an encoder."""
        counts = encoder.parameters
        return cls(
            encoder.name,
            encoder.weight_hash,
            dev,
            encoder.dim,
            counts["embedding"],
            counts["transformer"],
            texts_per_second,
            encoder.dtype,
        )


@dataclass(frozen=True)
class FinetuneFacts:
    """How stage 2 went.

    Attributes:
        pairs: their name.
        queries: how many were learnt from.
        negatives_a_query: hard negatives each had to draw from, on average.
        fingerprint: of the pairs with their negatives.
        settings: the recipe.
        history: the dev figure by step.
        seconds: of training.
    """

    pairs: str
    queries: int
    negatives_a_query: float
    fingerprint: str
    settings: FinetuneSettings
    history: tuple[DevPoint, ...]
    seconds: float


@dataclass(frozen=True)
class StudentReport:
    """All that is worth knowing about how a student came to be."""

    teacher: EncoderFacts
    student: EncoderFacts
    undistilled_dev: float
    shorter_dev: Mapping[int, float]
    dev_metric: str
    dev_set: str
    stage: str
    history: tuple[DevPoint, ...]
    corpus: str
    queries: str | None
    texts: int
    fingerprint: str
    origin: str
    settings: DistillSettings
    finetuning: FinetuneFacts | None
    train_seconds: float
    texts_per_second: float
    environment: Environment

    def as_dict(self) -> dict[str, Any]:
        """As plain values for `ibkd.json`."""
        packages = ("torch", "transformers", "sentence-transformers", "numpy")
        return {
            "version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "packages": {name: importlib.metadata.version(name) for name in packages},
            **asdict(self),
        }


def save_student(
    model: SentenceTransformer,
    projection: np.ndarray[Any, np.dtype[np.float32]] | None,
    report: StudentReport,
    output: Path,
) -> None:
    """Write the finished folder; `ibkd.json` comes last and marks it finished, then the checkpoints go.

    Killed before that, the folder is unfinished and the checkpoints are all there.

    Args:
        model: what `finished_model` gave.
        projection: the map [D, d] to the teacher's space that it gave, kept beside the model.
        report: for the card and `ibkd.json`.
        output: the folder.
    """
    import torch
    from safetensors.torch import save_file

    staging = output / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    with quiet_transformers():
        model.save(str(staging), create_model_card=False)
    if projection is not None:
        save_file({"weight": torch.from_numpy(np.ascontiguousarray(projection))}, staging / PROJECTION)
    for folder, name in ((CHECKPOINTS, LOG_FILE), (FINETUNING, FINETUNING_LOG)):
        if (output / folder / LOG_FILE).is_file():
            shutil.copy(output / folder / LOG_FILE, staging / name)
    sync_files(staging)
    # A folder is read as a model by its modules.json or config.json, so these come when all else is in place.
    for item in sorted(staging.iterdir(), key=lambda path: (path.name in ("modules.json", "config.json"), path.name)):
        target = output / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)
    staging.rmdir()
    with atomic_write(output / "README.md") as file:
        file.write(model_card(report, output.name).encode("utf-8"))
    write_json(output / FINISHED, report.as_dict())
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)


def read_student(folder: Path) -> dict[str, Any]:
    """What the `ibkd.json` of a finished student says.

    Raises:
        UserError: it is damaged.
    """
    try:
        record: Any = json.loads((folder / FINISHED).read_text("utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{folder / FINISHED} is damaged: distil the student again with --overwrite.")
    return record


def verify_student(folder: Path) -> None:
    """Compare a finished student's model with the weight hash that its `ibkd.json` records.

    Raises:
        UserError: the model cannot be loaded or is another one, or nothing is recorded.
    """
    student = read_student(folder).get("student")
    recorded = student.get("weight_hash") if isinstance(student, dict) else None
    if recorded is None:
        raise UserError(f"{folder / FINISHED} records no weight hash to verify with: leave out --verify.")
    model = load_sentence_transformer(str(folder))
    found = weight_hash(model)
    if recorded not in (found, former_weight_hash(model, found)):
        raise UserError(
            f"The model in {folder} is not the one that was distilled: its weights, modules and tokens hash to "
            f"{found[:12]} and {recorded[:12]} is recorded; distil it again with --overwrite."
        )
