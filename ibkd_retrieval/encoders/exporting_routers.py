"""Export of a student and its teacher as one model: a router with a route for queries and one for documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
from ibkd_retrieval.encoders.model_folder import student_record
from ibkd_retrieval.encoders.prompts import prompt_of, set_prompts
from ibkd_retrieval.encoders.weights import weight_hash
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import new_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PROBE = ("A river, and the boats on it; 3.14 of them.", "Milk", "which river has the most boats?")
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ExportedRouter:
    """What an export of a router made.

    Attributes:
        folder: the new folder.
        teacher: the model of the route for documents.
        largest_difference: the largest difference between an element of the probe texts' vectors and that of the
            models themselves, for queries and documents.
    """

    folder: Path
    teacher: str
    largest_difference: float


def export_router(student: Path | str, output: Path | str, *, teacher: str | None = None) -> ExportedRouter:
    """Write a student for queries and its teacher for documents as one sentence-transformers folder.

    The folder is loaded by sentence-transformers before it appears, and the vectors of probe texts are compared.

    Args:
        student: the folder of a student in its teacher's vector space.
        output: a new or an empty folder. It appears whole or not at all.
        teacher: the teacher, where it is not in the place that the student's record names.

    Raises:
        UserError: the student is in a space of its own, the teacher is another one, or the folder is taken.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    documents, name = _teacher_of(Path(student), teacher)
    queries = load_sentence_transformer(str(student))
    prompts = {"query": prompt_of(queries, "query"), "document": prompt_of(documents, "document")}
    stages: tuple[Any, Any] = list(queries), list(documents)
    router = Router.for_query_document(*stages)
    whole = SentenceTransformer(modules=[router], device="cpu", prompts=prompts, similarity_fn_name="cosine")
    with new_folder(output) as made, quiet_transformers():
        whole.save(str(made), create_model_card=False)
        read = SentenceTransformer(str(made), device="cpu", trust_remote_code=False)
        texts = list(_PROBE)
        pairs = [
            (read.encode_query(texts), queries.encode(texts, prompt=prompts["query"])),
            (read.encode_document(texts), documents.encode(texts, prompt=prompts["document"])),
        ]
        difference = max(float(np.abs(found - expected).max()) for found, expected in pairs)
        if not difference <= _TOLERANCE:
            raise UserError(
                f"The folder with both routes gives other vectors than the models (by {difference:.1e}): it is not "
                "written."
            )
    return ExportedRouter(Path(output), name, difference)


def _teacher_of(student: Path, teacher: str | None) -> tuple[SentenceTransformer, str]:
    """Load the teacher of a student, with the settings it taught with.

    Raises:
        UserError: the student is in a space of its own, or the model found is not its teacher.
    """
    record = student_record(student)
    facts, settings, config = (record.get(each) or {} for each in ("teacher", "settings", "config"))
    if settings.get("output_space") != "teacher":
        raise UserError(
            f"The vectors of {student} are not in its teacher's space, so that a router of both would compare nothing: "
            'distil it with `distill(output_space="teacher")`.'
        )
    name = teacher or str((config.get("teacher") or [facts.get("name")])[0])
    own = config.get("teaching") or {}
    model = load_sentence_transformer(name, pooling=own.get("pooling"))
    set_prompts(model, own.get("query_prompt"), own.get("document_prompt"), of="teacher_")
    if (found := weight_hash(model)) != facts.get("weight_hash"):
        raise UserError(
            f"{student} was distilled from {facts.get('name')} (weights {str(facts.get('weight_hash'))[:12]}), and "
            f"{name} is another model (weights {found[:12]}): name its `teacher`."
        )
    return model, name
