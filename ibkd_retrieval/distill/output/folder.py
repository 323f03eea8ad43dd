"""The folder a student is made in: whether it may be written, and what is in it while it is unfinished."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.distill.training.log import LOG_FILE
from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import is_leftover

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FINISHED = "ibkd.json"
CHECKPOINTS = "checkpoints"
FINETUNING = "checkpoints/finetuning"


def prepare_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that `output` may be written; nothing is changed yet.

    Raises:
        UserError: it is finished, unfinished, or not ours, and the options do not say what to do.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a student and --overwrite starts anew: give one of them.")
    if not output.exists():
        return
    if output.is_dir() and not any(path.is_file() and not is_leftover(path) for path in output.rglob("*")):
        return
    # The name `checkpoints` alone is too common to tell our folders by.
    finished = (output / FINISHED).is_file()
    started = any((output / folder / LOG_FILE).is_file() for folder in (CHECKPOINTS, FINETUNING))
    if not output.is_dir() or not (finished or started):
        raise UserError(f"{output} exists and is no student of this toolkit: give another --output.")
    if overwrite:
        return
    if finished:
        raise UserError(f"{output} is finished: give another --output, or --overwrite to replace it.")
    if not resume:
        raise UserError(f"{output} is unfinished: give --resume to go on, or --overwrite to start anew.")


def remove_output(output: Path) -> None:
    """Delete a student's folder; killed in the middle of it, none is left that looks like a stranger's."""
    if not output.exists():
        return
    doomed = output.with_name(f".{output.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    output.rename(doomed)
    shutil.rmtree(doomed)


def save_plain(model: SentenceTransformer, folder: Path) -> None:
    """Save a model as a sentence-transformers folder, replacing one that is there.

    Raises:
        UserError: there is something else in its place.
    """
    if folder.exists() and not (folder / "modules.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no model folder: give another place for the undistilled student.")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet_transformers():
        model.save(str(temporary), create_model_card=False)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
