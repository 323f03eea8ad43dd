"""Whether a model's vectors compare with those of an index: it made them, or is a student in their space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.endpoints.identity import same_weights
from ibkd_retrieval.encoders.model_folder import STUDENT_RECORD
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.manifest import UNNAMED_MODEL
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import TextEncoder
    from ibkd_retrieval.indexing.format.manifest import IndexManifest


def check_query_model(
    folder: Path, encoder: TextEncoder, manifest: IndexManifest, digest: Callable[[], str] = lambda: ""
) -> None:
    """Accept the encoder of an index, or a student that was distilled into that encoder's space.

    A digest of the vectors stands for the weight hash of an encoder that is not known.

    A student's `ibkd.json` names its teacher (name and weight hash) and says whether its vectors are in the teacher's
    space. The weight hash of a teacher covers its maximum length. So the teacher must have indexed with its own
    maximum length.

    Args:
        folder: the model's folder, as the user named it.
        encoder: the loaded model.
        manifest: the manifest of the index.
        digest: gives the digest of the index's vectors, for an older index that records none.

    Raises:
        UserError: the vectors have another length, or no record says that they are in the space of the index.
    """
    made_by = manifest.encoder
    if encoder.weight_hash == made_by.weight_hash:
        return
    unnamed = made_by.name == UNNAMED_MODEL
    taught_by = "the index" if unnamed else made_by.name
    advice = f'distil a student of {taught_by} with `distill(output_space="teacher")`, or leave out `query_model`'
    if encoder.dim != manifest.dim:
        raise UserError(
            f"{folder} makes vectors of {encoder.dim} dimensions and the index holds {manifest.dim}: {advice}."
        )
    made = _student_record(folder)
    if made is None:
        raise UserError(
            f"{folder} has no {STUDENT_RECORD} that says what it was distilled from, so nothing tells that its vectors "
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
    space = made_by.weight_hash if not unnamed else made_by.vectors or digest()
    if not same_weights(str(teacher.get("weight_hash")), space):
        built = "holds other vectors (digest" if unnamed else f"was built with {made_by.name} (weights"
        raise UserError(
            f"{folder} was distilled into the space of {teacher.get('name')} (weights "
            f"{str(teacher.get('weight_hash'))[:12]}), and the index {built} {space[:12]}): {advice}."
        )


def _student_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = parse((folder / STUDENT_RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
