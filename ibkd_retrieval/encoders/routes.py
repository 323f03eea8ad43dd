"""Models with a route for queries and another for documents: the `Router` of sentence-transformers as first module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError, first_line

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
