"""Initialisation of a student: layers of its teacher, a small model, or a table of token vectors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.loading import quiet_transformers, resolve_model_name
from ibkd_retrieval.encoders.routes import QUERY_ROUTE
from ibkd_retrieval.errors import UserError, reason_of, require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def evenly_spaced_layers(total: int, keep: int) -> list[int]:
    """Return the positions of `keep` of `total` layers, evenly spaced, always with the last.

    The pooling of the teacher reads the last layer, so a student with that layer starts closest to the teacher. The
    other layers are spread over the rest, from the first on.

    Raises:
        UserError: `keep` is below 1 or above `total`.
    """
    if not 1 <= keep <= total:
        raise UserError(f"`layers={keep}`: the teacher has {total} layers, give a number from 1 to {total}.")
    if keep == 1:
        return [total - 1]
    return [round(i * (total - 1) / (keep - 1)) for i in range(keep)]


def student_from_layers(teacher: SentenceTransformer, layers: int | Sequence[int]) -> SentenceTransformer:
    """Copy a teacher with some of its transformer layers.

    Args:
        teacher: an encoder whose transformer has one list of layers (BERT, MPNet, RoBERTa, ...).
        layers: the number of evenly spaced layers, or the positions of layers from 0.

    Raises:
        UserError: the architecture has no such list, or a position does not exist.
    """
    import torch

    if not hasattr(teacher[0], "auto_model"):
        raise UserError("The teacher has no transformer layers to take: name a small model as `student` instead.")
    if any(type(module).__name__ == "WeightedLayerPooling" for module in teacher):
        raise UserError(
            "The teacher weighs the outputs of all its layers (WeightedLayerPooling), so that some of them do not make "
            "a student: name a small model as `student` instead."
        )
    transformer: Any = teacher[0]
    config = transformer.auto_model.config
    total = config.num_hidden_layers
    none = UserError(
        f"Cannot take layers from a {config.model_type} teacher (no list of {total} layers in it): "
        "name a small model as `student` instead."
    )
    if getattr(config, "num_hidden_groups", None):  # ALBERT's list is of groups, however many layers there are.
        raise none
    positions = evenly_spaced_layers(total, layers) if isinstance(layers, int) else list(layers)
    if any(not 0 <= position < total for position in positions) or not positions:
        raise UserError(f"The teacher has layers 0 to {total - 1}; {positions} names another.")
    if len(set(positions)) < len(positions):
        raise UserError(f"`layers` {positions} names a layer twice: name each once.")
    every = next(
        (m for m in transformer.auto_model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total), None
    )
    if every is None:
        raise none
    _check_alike(every, positions)
    chosen = torch.nn.ModuleList(every[position] for position in positions)
    # The copy of the list is the copy of this shorter one: a large teacher may not fit into the memory twice.
    # A student has one route for queries and documents.
    memo: dict[int, Any] = {id(route): () for name, route in vars(teacher).items() if name == QUERY_ROUTE}
    memo[id(every)] = copy.deepcopy(chosen, memo)
    student = copy.deepcopy(teacher, memo).float()
    taken: Any = student[0]
    own = taken.auto_model.config
    # Some configurations describe each layer. Loading reads the description again.
    for setting, value in own.to_dict().items():
        if isinstance(value, list) and len(value) == total:
            setattr(own, setting, [value[position] for position in positions])
    try:
        own.num_hidden_layers = len(positions)
    except NotImplementedError:
        raise none from None
    own.dtype = torch.float32
    return student


def _check_alike(layers: Any, positions: Sequence[int]) -> None:
    """Refuse layers at positions whose layers have other parts. Missing parts would be random.

    Raises:
        UserError: the parts of a layer differ from those at its new position.
    """
    parts = [{name for name, _ in layer.named_parameters()} for layer in layers]
    for place, position in enumerate(positions):
        if parts[place] != parts[position]:
            raise UserError(
                f"Layer {position} of this architecture cannot stand in the place of layer {place}, which has parts of "
                "its own: keep two layers or more, layer 0 among them."
            )


def reduce_dimension(model: SentenceTransformer, sample: NDArray[np.float32], dim: int) -> None:
    """Add a linear layer that reduces the pooled vector to `dim` dimensions, in place.

    The layer is initialised with the principal directions of `sample`. They are not centred, because search compares
    inner products. The student therefore starts as the best linear summary of itself. The layer is a standard Dense
    module before the normalisation.

    Args:
        model: an encoder that ends in Normalize.
        sample: vectors of the model for some texts, [n, d].
        dim: the new length, below d.

    Raises:
        UserError: `dim` is not below the model's length, or there are too few texts.
    """
    width = sample.shape[1]
    if not 1 <= dim < width:
        raise UserError(f"`dim={dim}`: the student has {width} dimensions, give fewer.")
    if len(sample) < dim:
        raise UserError(f"`dim={dim}` needs at least {dim} texts to start from; there are {len(sample)}.")
    _append_linear(model, principal_directions(sample, dim))


def keep_leading_dimensions(model: SentenceTransformer, dim: int, *, last: bool = False) -> None:
    """Truncate the vectors of an encoder to their first `dim` dimensions, in place, before the normalisation.

    It is meant for students with Matryoshka dims. In other models, the first dimensions are no better than others. With
    `last`, the normalised vector is truncated and not normalised again.

    Raises:
        UserError: the model has fewer dimensions.
    """
    width = int(model.get_embedding_dimension() or 0)
    if not 1 <= dim <= width:
        raise UserError(f"`dim={dim}`: the model has {width} dimensions, give from 1 to {width}.")
    if dim < width:
        _append_linear(model, np.eye(dim, width, dtype=np.float32), last=last)


def add_output_layer(model: SentenceTransformer) -> None:
    """Add an identity linear layer before the final normalisation, in place."""
    _append_linear(model, np.eye(int(model.get_embedding_dimension() or 0), dtype=np.float32))


def _append_linear(model: SentenceTransformer, matrix: NDArray[np.float32], *, last: bool = False) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    normalises = isinstance(model[len(model) - 1], Normalize) and not last
    model.insert(len(model) - 1 if normalises else len(model), linear_layer(matrix, model))


def linear_layer(matrix: NDArray[np.float32], model: SentenceTransformer) -> Any:
    """Make the module that maps vectors by a matrix [rows, columns], on the device of a model."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    rows, columns = matrix.shape
    layer = Dense(columns, rows, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))
    return layer.to(model.device)


def principal_directions(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the orthonormal directions of the largest second moment of the rows, [count, d], largest first."""
    moment = vectors.T.astype(np.float64) @ vectors.astype(np.float64)
    _, basis = np.linalg.eigh(moment)
    return np.ascontiguousarray(basis[:, ::-1][:, :count].T, dtype=np.float32)


DEFAULT_DIM = 256


def is_static(model: SentenceTransformer) -> bool:
    """Whether a model looks up token vectors instead of computing them."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def static_student(teacher: str, dim: int | None, device: str) -> SentenceTransformer:
    """Make a table of token vectors from a teacher with model2vec, reduced to `dim` and weighted by rank.

    Args:
        teacher: the folder or hub name of a transformer.
        dim: the length of a vector. None is 256.
        device: the torch device.

    Raises:
        MissingPackage: model2vec is not installed.
        UserError: the teacher has fewer dimensions, or no transformer.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    for package in ("model2vec", "skeletoken"):
        require(package, "`student='static'`", "static")
    try:
        with quiet_transformers():
            table = StaticEmbedding.from_distillation(
                resolve_model_name(teacher), device=device, pca_dims=dim or DEFAULT_DIM
            )
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(f"No static student can be made of `{teacher}`: {reason_of(error)}.") from error
    if dim is not None and table.get_embedding_dimension() != dim:
        raise UserError(f"`dim={dim}`: the teacher's token vectors have {table.get_embedding_dimension()} dimensions.")
    # Training needs full precision.
    table.embedding.float()
    return SentenceTransformer(modules=[table, Normalize()], device=device, similarity_fn_name="cosine").eval()
