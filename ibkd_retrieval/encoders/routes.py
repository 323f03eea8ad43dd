"""Models with a route for queries and another for documents: the `Router` of sentence-transformers as first module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError, first_line
from ibkd_retrieval.files import new_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


QUERY_ROUTE = "query_route"
"""The attribute of a model that holds the one that encodes queries, in a tuple: so it is no module of the model."""


def split_routes(model: SentenceTransformer, name: str) -> SentenceTransformer:
    """Return the model that encodes documents. `query_route` gives the one that encodes queries.

    The modules behind the router belong to both.

    Args:
        model: a model. Without a router at its start it is returned as it is.
        name: the name that the user gave.

    Raises:
        UserError: the router has no route for queries or for documents, or their vectors have different lengths.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    router: Any = model[0]
    if not isinstance(router, Router):
        return model
    parts: dict[str, SentenceTransformer] = {}
    for task in ("query", "document"):
        try:
            route: Any = router._resolve_route(task=task, modality="text")
        except ValueError as error:
            raise UserError(
                f"The router of `{name}` has no route for a {task} ({first_line(error)}): give a model with both."
            ) from error
        stages: Any = router.sub_modules[route]
        parts[task] = SentenceTransformer(
            modules=[*stages, *list(model)[1:]],
            device=str(model.device),
            prompts={kind: prompt or "" for kind, prompt in (model.prompts or {}).items()},
            default_prompt_name=model.default_prompt_name,
            similarity_fn_name=model.similarity_fn_name,
            truncate_dim=model.truncate_dim,
        )
    queries, documents = parts["query"], parts["document"]
    lengths = [int(each.get_embedding_dimension() or 0) for each in (queries, documents)]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"The routes of `{name}` give vectors of {lengths[0]} dimensions for queries and {lengths[1]} for "
            "documents, which do not compare: give a model whose routes agree."
        )
    vars(documents)[QUERY_ROUTE] = (queries,)
    return documents


def query_route(model: SentenceTransformer) -> SentenceTransformer | None:
    """Return the model that encodes queries, None where it is the model itself."""
    found: tuple[SentenceTransformer, ...] = vars(model).get(QUERY_ROUTE, ())
    return found[0] if found else None


def routes(model: SentenceTransformer) -> tuple[SentenceTransformer, ...]:
    """Return the model, and the one that encodes queries where there is another."""
    queries = query_route(model)
    return (model,) if queries is None else (model, queries)


def check_one_route(model: SentenceTransformer, what: str) -> None:
    """Refuse a model with two routes.

    Args:
        model: the model.
        what: what cannot be done with it, such as "`x` cannot be trained".

    Raises:
        UserError: queries have a route of their own.
    """
    if query_route(model) is not None:
        raise UserError(f"{what}: it has a router, with one route for queries and one for documents. Give one of them.")


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
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    from ibkd_retrieval.encoders.loading import load_sentence_transformer, quiet_transformers
    from ibkd_retrieval.encoders.prompts import prompt_of

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


_PROBE = ("A river, and the boats on it; 3.14 of them.", "Milk", "which river has the most boats?")
_TOLERANCE = 1e-5


def _teacher_of(student: Path, teacher: str | None) -> tuple[SentenceTransformer, str]:
    """Load the teacher of a student, with the settings it taught with.

    Raises:
        UserError: the student is in a space of its own, or the model found is not its teacher.
    """
    from ibkd_retrieval.encoders.loading import load_sentence_transformer
    from ibkd_retrieval.encoders.model_folder import student_record
    from ibkd_retrieval.encoders.prompts import set_prompts
    from ibkd_retrieval.encoders.weights import weight_hash

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
