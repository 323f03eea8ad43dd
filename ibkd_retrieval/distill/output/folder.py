"""The folder of a student: checks, contents while unfinished, and the finished model."""

from __future__ import annotations

import errno
import inspect
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.distill.config import RECORD
from ibkd_retrieval.distill.data.synthetic import SYNTHETIC
from ibkd_retrieval.distill.output.report import StudentReport, model_card
from ibkd_retrieval.distill.training.log import LOG_FILE
from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.portable import make_portable
from ibkd_retrieval.encoders.weights import former_weight_hash, weight_hash
from ibkd_retrieval.errors import UserError, WorkFailed, first_line
from ibkd_retrieval.files import (
    atomic_write,
    beside,
    check_name,
    is_leftover,
    require_writable,
    sha256_file,
    sync_directory,
    sync_tree,
    write_json,
)
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


CHECKPOINTS = "checkpoints"
FINETUNING = "checkpoints/finetuning"


def prepare_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that `output` may be written. Nothing is changed.

    Raises:
        UserError: the folder holds other files or takes none, or it holds a student, and neither `resume` nor
            `overwrite` applies.
    """
    check_name(output)
    if resume and overwrite:
        raise UserError("`resume` goes on with a student and `overwrite` starts anew: give one of them.")
    if output.is_dir() or not output.exists():
        require_writable(output / RECORD, "give another `output`")
    if not output.exists() or _is_empty(output):
        return
    # Other programs have folders named `checkpoints` too.
    finished = (output / RECORD).is_file()
    begun = (f"{CHECKPOINTS}/{LOG_FILE}", f"{FINETUNING}/{LOG_FILE}", f"{CHECKPOINTS}/{SYNTHETIC}")
    started = any((output / name).is_file() for name in begun)
    if not output.is_dir() or not (finished or started):
        raise UserError(f"{output} exists and is no student of this toolkit: give another `output`.")
    # A folder that is both was being replaced: the new student is trained beside the old one.
    if overwrite or (resume and started):
        return
    if finished:
        raise UserError(f"{output} is finished: give another `output`, or `overwrite` to replace it.")
    raise UserError(f"{output} is unfinished: give `resume` to go on, or `overwrite` to start anew.")


def clear_unfinished(output: Path) -> None:
    """Delete the checkpoints of an earlier run in `output`. A finished student stays until it is replaced."""
    doomed = _beside(output, "removed")
    shutil.rmtree(doomed, ignore_errors=True)
    for name in ("tensorboard", CHECKPOINTS):
        if (output / name).exists():
            shutil.rmtree(doomed, ignore_errors=True)
            (output / name).rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def staging_folder(output: Path) -> Path:
    """A path beside `output` for the finished student. Nothing is there."""
    staging = _beside(output, "finished")
    shutil.rmtree(staging, ignore_errors=True)
    return staging


def take_place(staging: Path, output: Path) -> None:
    """Replace `output`, which holds the checkpoints, by the finished student in `staging`.

    If the process is killed between the two renames, `settle_output` does the second.
    """
    for item in output.iterdir() if output.is_dir() else ():
        # Other files, and events for TensorBoard, are kept. The files of an old student are not.
        if item.name == "tensorboard" or not ((output / RECORD).is_file() or item.name in _OURS or is_leftover(item)):
            target = staging / item.name
            if not target.exists():
                shutil.copytree(item, target) if item.is_dir() else shutil.copy2(item, target)
    sync_tree(staging)
    old = _beside(output, "removed")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    staging.rename(output)
    sync_directory(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle_output(output: Path) -> bool:
    """Finish the renames of a killed process. Returns True if this made `output` a finished student.

    At its end, a run has two folders beside its output for a moment: the finished student, and the folder that it
    replaces.
    """
    staging, old = _beside(output, "finished"), _beside(output, "removed")
    whole = (staging / RECORD).is_file() and old.exists() and (not output.exists() or _is_empty(output))
    if whole:
        staging.rename(output)
        sync_directory(output.parent)
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return whole


_OURS = (CHECKPOINTS, ".staging")


def _beside(output: Path, state: str) -> Path:
    return beside(output, f".{state}")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(path.is_file() and not is_leftover(path) for path in folder.rglob("*"))


@contextmanager
def full_disk_error(output: Path) -> Iterator[None]:
    """Turn a write error into a message that says how to continue."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        reason = first_line(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        reason = f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    except RuntimeError as error:
        # torch and tokenizers raise this for a file that they cannot write.
        if "os error" not in str(error) and "No space left" not in str(error) and "File too large" not in str(error):
            raise
        reason = first_line(error)
    else:
        return
    raise WorkFailed(f"{output} cannot be written ({reason}): make room and go on with `resume=True`.")


def save_plain(model: SentenceTransformer, folder: Path) -> None:
    """Save a model as a sentence-transformers folder. An older model folder is replaced.

    Raises:
        UserError: the place holds something else.
    """
    if folder.exists() and not (folder / "modules.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no model folder: give another place for the undistilled student.")
    temporary = beside(folder, ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _save(model, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _save(model: SentenceTransformer, folder: Path) -> None:
    """Save a model as sentence-transformers does, and say that it has no pooler, where its architecture has one.

    Otherwise, transformers reports at each load that it has made one of random numbers.
    """
    with quiet_transformers():
        model.save(str(folder), create_model_card=False)
        make_portable(model, folder)
    transformer: Any = getattr(model[0], "auto_model", None)
    named = inspect.signature(type(transformer)).parameters if transformer is not None else {}
    if "add_pooling_layer" in named and not list(transformer.pooler.parameters() if transformer.pooler else ()):
        path = folder / "sentence_bert_config.json"
        settings = json.loads(path.read_text("utf-8"))
        write_json(path, settings | {"model_args": {"add_pooling_layer": False}})


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
    _save(model, staging)
    if projection is not None:
        save_file({"weight": torch.from_numpy(np.ascontiguousarray(projection))}, staging / PROJECTION)
    for source, name in (
        (f"{CHECKPOINTS}/{LOG_FILE}", LOG_FILE),
        (f"{FINETUNING}/{LOG_FILE}", FINETUNING_LOG),
        (f"{CHECKPOINTS}/{SYNTHETIC}", SYNTHETIC),
    ):
        if (output / source).is_file():
            shutil.copy(output / source, staging / name)
    with atomic_write(staging / "README.md") as file:
        file.write(model_card(report, output).encode("utf-8"))
    write_json(staging / RECORD, report.as_dict() | {"files": _measured(staging)})
    take_place(staging, output)


def _measured(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file that decides the vectors of a student, by name.

    Its card and its logs are for people, who may edit them.
    """
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".md", ".jsonl")
    }


def read_student(folder: Path) -> dict[str, Any]:
    """Read the `ibkd.json` of a finished student.

    Raises:
        UserError: the file is damaged.
    """
    try:
        record: Any = parse((folder / RECORD).read_text("utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{folder / RECORD} is damaged: distil the student again with `distill(overwrite=True)`.")
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
