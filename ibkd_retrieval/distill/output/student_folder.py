"""The student on disk: a sentence-transformers folder with a model card and `ibkd.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.distill.config import RECORD
from ibkd_retrieval.distill.output.card import model_card
from ibkd_retrieval.distill.output.folder import CHECKPOINTS, FINETUNING, staging_folder, take_place
from ibkd_retrieval.distill.output.report import StudentReport
from ibkd_retrieval.distill.training.log import LOG_FILE
from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.weights import former_weight_hash, weight_hash
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PROJECTION = "projection.safetensors"
FINETUNING_LOG = "finetuning-log.jsonl"


def save_student(
    model: SentenceTransformer,
    projection: np.ndarray[Any, np.dtype[np.float32]] | None,
    report: StudentReport,
    output: Path,
) -> None:
    """Write the finished student. It replaces the checkpoints by one rename.

    If the process is killed before the rename, the folder and its checkpoints are unchanged.

    Args:
        model: the model from `finished_model`.
        projection: the map [D, d] to the teacher's space from `finished_model`, saved beside the model.
        report: the contents of the card and `ibkd.json`.
        output: the folder to write.
    """
    import torch
    from safetensors.torch import save_file

    staging = staging_folder(output)
    with quiet_transformers():
        model.save(str(staging), create_model_card=False)
    if projection is not None:
        save_file({"weight": torch.from_numpy(np.ascontiguousarray(projection))}, staging / PROJECTION)
    for folder, name in ((CHECKPOINTS, LOG_FILE), (FINETUNING, FINETUNING_LOG)):
        if (output / folder / LOG_FILE).is_file():
            shutil.copy(output / folder / LOG_FILE, staging / name)
    with atomic_write(staging / "README.md") as file:
        file.write(model_card(report, output.name).encode("utf-8"))
    write_json(staging / RECORD, report.as_dict())
    take_place(staging, output)


def read_student(folder: Path) -> dict[str, Any]:
    """Read the `ibkd.json` of a finished student.

    Raises:
        UserError: the file is damaged.
    """
    try:
        record: Any = json.loads((folder / RECORD).read_text("utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{folder / RECORD} is damaged: distil the student again with `overwrite`.")
    return record


def verify_student(folder: Path) -> None:
    """Compare a finished student's model with the weight hash that its `ibkd.json` records.

    Raises:
        UserError: the model cannot be loaded or is another one, or nothing is recorded.
    """
    student = read_student(folder).get("student")
    recorded = student.get("weight_hash") if isinstance(student, dict) else None
    if recorded is None:
        raise UserError(f"{folder / RECORD} records no weight hash to verify with: leave out `verify`.")
    model = load_sentence_transformer(str(folder))
    found = weight_hash(model)
    if recorded not in (found, former_weight_hash(model, found)):
        raise UserError(
            f"The model in {folder} is not the one that was distilled: its weights, modules and tokens hash to "
            f"{found[:12]} and {recorded[:12]} is recorded; distil it again with `overwrite`."
        )
