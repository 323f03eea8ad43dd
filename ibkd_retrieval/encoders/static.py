"""Students without a transformer: the mean of one vector a token, started from a teacher's token outputs."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.encoders.names import resolve_model_name
from ibkd_retrieval.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_DIM = 256


def is_static(model: SentenceTransformer) -> bool:
    """Whether a model looks its token vectors up instead of computing them."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def static_student(teacher: str, dim: int | None, device: str) -> SentenceTransformer:
    """A table of the teacher's outputs for each token alone, reduced to `dim` and weighted by rank, by model2vec.

    Args:
        teacher: folder or hub name of a transformer.
        dim: length of a vector; None for 256.
        device: torch device to put it on.

    Raises:
        MissingPackage: model2vec is not installed.
        UserError: the teacher has fewer dimensions, or no transformer.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    for package in ("model2vec", "skeletoken"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, "--student static", "static")
    try:
        with quiet_transformers():
            table = StaticEmbedding.from_distillation(
                resolve_model_name(teacher), device=device, pca_dims=dim or DEFAULT_DIM
            )
    except (ValueError, OSError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UserError(f"No static student can be made of `{teacher}`: {reason}.") from error
    if dim is not None and table.get_embedding_dimension() != dim:
        raise UserError(f"--dim {dim}: the teacher's token vectors have {table.get_embedding_dimension()} dimensions.")
    # In full precision, as everything that is trained.
    table.embedding.float()
    return SentenceTransformer(modules=[table, Normalize()], device=device, similarity_fn_name="cosine").eval()
