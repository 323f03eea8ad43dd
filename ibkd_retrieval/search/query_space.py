"""Check that a student can search its teacher's index: both must share a vector space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.indexing.format.manifest import IndexManifest

STUDENT_FILE = "ibkd.json"
"""The file in a student's folder that records how it was made (docs/formats.md)."""


def check_query_model(folder: Path, encoder: TextEncoder, manifest: IndexManifest) -> None:
    """Accept the encoder of an index, or a student that was distilled into that encoder's space.

    A student says in its `ibkd.json` which teacher it learned from (name and weight hash) and whether its vectors are
    in the teacher's space. The weight hash of a teacher covers the number of tokens it reads, so it has to have
    indexed with the length it has by default.

    Args:
        folder: the model's folder, as the user named it.
        encoder: the model, loaded.
        manifest: of the index.

    Raises:
        UserError: the vectors have another length, or nothing says that they are in the space of the index.
    """
    made_by = manifest.encoder
    if encoder.weight_hash == made_by.weight_hash:
        return
    advice = f'distil a student of {made_by.name} with `distill(output_space="teacher")`, or leave out `query_model`'
    if encoder.dim != manifest.dim:
        raise UserError(
            f"{folder} makes vectors of {encoder.dim} dimensions and the index holds {manifest.dim}: {advice}."
        )
    made = _student_record(folder)
    if made is None:
        raise UserError(
            f"{folder} has no {STUDENT_FILE} that says what it was distilled from, so nothing tells that its vectors "
            f"compare with those of the index: {advice}."
        )
    teacher, settings = made.get("teacher"), made.get("settings")
    teacher = teacher if isinstance(teacher, dict) else {}
    space = settings.get("output_space") if isinstance(settings, dict) else None
    if space != "teacher":
        raise UserError(
            f"The vectors of {folder} are in a space of its own ({encoder.dim} dimensions, output space {space}), not "
            f"in its teacher's: {advice}."
        )
    if teacher.get("weight_hash") != made_by.weight_hash:
        raise UserError(
            f"{folder} was distilled into the space of {teacher.get('name')} (weights "
            f"{str(teacher.get('weight_hash'))[:12]}), and the index was built with {made_by.name} (weights "
            f"{made_by.weight_hash[:12]}): {advice}."
        )


def _student_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / STUDENT_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
