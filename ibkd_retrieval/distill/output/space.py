"""The trained student as it is saved: in a compact space of its own, or in its teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.recipe import DistillSettings


class FinishedModel(NamedTuple):
    """A model to save, and the map [D, d] from its vectors to the teacher's space where it has a space of its own."""

    model: SentenceTransformer
    to_teacher: NDArray[np.float32] | None


def finished_model(
    student: SentenceTransformer, projection: NDArray[np.float32] | None, settings: DistillSettings
) -> FinishedModel:
    """Copy the student and put W where the settings want it.

    In the teacher's space, W stands behind the student. In its own, training compared W s, not s, so the
    student's inner products would miss what W stretches. The polar decomposition W = Q M parts it into a
    stretch M [d, d], which joins the student's last linear layer, and an isometry Q [D, d], which changes no
    cosine and is left out: cos(M s, M s') = cos(W s, W s') exactly, in d dimensions.

    Args:
        student: the trained model; left as it is.
        projection: W [D, d]; None where the objective compares the student's vectors as they are.
        settings: their `output_space` decides.

    Raises:
        UserError: the teacher's space is asked for and the objective has no W.
    """
    import copy

    from sentence_transformers.sentence_transformer.modules import Normalize

    model = copy.deepcopy(student)
    if projection is None:
        if settings.output_space == "teacher":
            raise UserError(f"The objective {settings.objective} has no projection to the teacher's space.")
        return FinishedModel(model, None)
    if settings.output_space == "teacher":
        model.append(_linear(projection, model))
        model.append(Normalize())
        return FinishedModel(model, None)
    left, sizes, right = np.linalg.svd(projection.astype(np.float64), full_matrices=False)
    # The size of M cancels in every cosine; divided out, the layer's weights stay near the size they were trained at.
    stretch = (right.T * (sizes / sizes.max())) @ right
    if not np.allclose(stretch, np.eye(len(stretch)), atol=1e-5):
        stretch_output(model, stretch.astype(np.float32))
    return FinishedModel(model, (left @ right).astype(np.float32))


def ends_in_linear(model: SentenceTransformer) -> bool:
    """Whether a linear layer stands right before the model's final normalisation, as a static table does."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    last: Any = model[len(model) - 2]
    if is_static(model) and len(model) == 2:
        return True
    return isinstance(last, Dense) and isinstance(last.activation_function, torch.nn.Identity) and not last.bias


def stretch_output(model: SentenceTransformer, stretch: NDArray[np.float32]) -> None:
    """Multiply what the final normalisation reads by `stretch`: inside the linear layer before it, if there is one."""
    import torch

    if ends_in_linear(model):
        last: Any = model[len(model) - 2]
        with torch.no_grad():
            if is_static(model) and len(model) == 2:
                # The mean of stretched token vectors is the stretched mean.
                table = last.embedding.weight
                table.copy_(table @ torch.from_numpy(stretch).to(table).T)
            else:
                weight = last.linear.weight
                weight.copy_(torch.from_numpy(stretch).to(weight) @ weight)
    else:
        model.insert(len(model) - 1, _linear(stretch, model))


def _linear(matrix: NDArray[np.float32], model: SentenceTransformer) -> Any:
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    rows, columns = matrix.shape
    layer = Dense(columns, rows, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))
    return layer.to(model.device)
