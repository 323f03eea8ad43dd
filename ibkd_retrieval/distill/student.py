"""The student's model: how it is initialised, and how it is finished after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.sections import STATIC, StudentConfig
from ibkd_retrieval.encoders.backends.torch_modules import check_trainable
from ibkd_retrieval.encoders.loading import load_sentence_transformer, position_limit
from ibkd_retrieval.encoders.prompts import prompt_of, set_prompts
from ibkd_retrieval.encoders.routes import check_one_route
from ibkd_retrieval.encoders.students import is_static, linear_layer, static_student, student_from_layers
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def initial_student(
    config: StudentConfig, teacher: SentenceTransformer | None, teacher_name: str, device: str
) -> SentenceTransformer:
    """Make the student that a configuration describes. Its last module is Normalize.

    A teacher of which there are only vectors (None) has no layers to give.

    Raises:
        UserError: the configuration does not fit this teacher.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    if config.pooling is not None and config.model in (None, STATIC):
        raise UserError("`pooling` is for a small model named with `student`: leave it out.")
    if config.model == STATIC:
        if config.layers is not None:
            raise UserError("A static student has no layers: leave `layers` out.")
        student = static_student(teacher_name, config.dim or None, device)
        set_prompts(student, config.query_prompt, config.document_prompt)
        return student
    if config.model is None:
        if config.layers is None or teacher is None:
            raise UserError("No student: name a small model with `student`, or take some `layers` of the teacher.")
        student = student_from_layers(teacher, config.layers)
    else:
        student = load_sentence_transformer(config.model, device=device, pooling=config.pooling)
        check_one_route(student, f"`student` {config.model} cannot be trained")
        if config.layers is not None:
            student = student_from_layers(student, config.layers)
    set_prompts(student, config.query_prompt, config.document_prompt)
    check_trainable(student, {kind: prompt_of(student, kind) for kind in ("query", "document")})
    if not isinstance(student[len(student) - 1], Normalize):
        # Objectives train directions only. Without unit length, inner products would depend on untrained norms.
        student.append(Normalize())
    return student


def transformer_width(model: SentenceTransformer) -> int | None:
    """The hidden size of a transformer, or None if the model has none."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    width = getattr(config, "hidden_size", None)
    return width if isinstance(width, int) else None


def check_length(student: SentenceTransformer, max_length: int) -> None:
    """Check that the student can read `max_length` tokens.

    Raises:
        UserError: it reads fewer.
    """
    limit = position_limit(student)
    if limit is not None and max_length > limit:
        raise UserError(f"The student reads at most {limit} tokens: give `max_length={limit}` or less.")


def check_freezing(student: SentenceTransformer, freeze_embeddings: bool) -> None:
    """Check that freezing leaves something to train.

    Raises:
        UserError: the student is static, and its token table would be frozen.
    """
    if freeze_embeddings and is_static(student):
        raise UserError("`freeze_embeddings` leaves nothing of a static student to train: leave it out.")


def read_as_much(student: SentenceTransformer, max_length: int) -> None:
    """Raise the student's maximum length to the training length, if it is lower."""
    if not is_static(student):
        student.max_seq_length = max(max_length, int(student.max_seq_length or max_length))


def without_forgetting(config: DistillConfig, progress: Progress) -> DistillConfig:
    """Set the weight of the forgetting term to 0 in both stages. A static student cannot have that term."""
    weights = [config.objective.hsic_weight] if config.stage != "finetune" and config.objective.name == "ibkd" else []
    weights += [config.finetuning.hsic_weight] if config.stage != "distill" else []
    if any(weights):
        progress.say("a static student's input representation is its output: training without the forgetting term")
    return config.with_parameters(hsic_weight=0.0, finetune_hsic_weight=0.0)


class FinishedModel(NamedTuple):
    """A model to save.

    Attributes:
        model: the model.
        to_teacher: map [D, d] from its vectors to the teacher's space, for a student with its own vector space.
    """

    model: SentenceTransformer
    to_teacher: NDArray[np.float32] | None


def finished_model(
    student: SentenceTransformer, projection: NDArray[np.float32] | None, config: DistillConfig
) -> FinishedModel:
    """Copy the student and put W where the configuration wants it.

    In the teacher's space, W follows the student. In a space of its own, the student's inner products would lack the
    stretching by W, because training compared W s and not s. The polar decomposition W = Q M gives a stretch M [d, d],
    which is merged into the student's last linear layer, and an isometry Q [D, d], which changes no cosine and is left
    out. So cos(M s, M s') = cos(W s, W s') exactly, in d dimensions.

    Args:
        student: the trained model. It is not changed.
        projection: W [D, d], or None if the objective has no W.
        config: its `output_space` decides.

    Raises:
        UserError: the output space is the teacher's, and the objective has no W.
    """
    import copy

    from sentence_transformers.sentence_transformer.modules import Normalize

    model = copy.deepcopy(student)
    if projection is None:
        if config.student.output_space == "teacher":
            raise UserError(f"The objective {config.objective.name} has no projection to the teacher's space.")
        return FinishedModel(model, None)
    if config.student.output_space == "teacher":
        model.append(linear_layer(projection, model))
        model.append(Normalize())
        return FinishedModel(model, None)
    left, sizes, right = np.linalg.svd(projection.astype(np.float64), full_matrices=False)
    # The scale of M cancels in every cosine. Without it, the layer's weights keep about the scale of training.
    stretch = (right.T * (sizes / sizes.max())) @ right
    if not np.allclose(stretch, np.eye(len(stretch)), atol=1e-5):
        stretch_output(model, stretch.astype(np.float32))
    return FinishedModel(model, (left @ right).astype(np.float32))


def ends_in_linear(model: SentenceTransformer) -> bool:
    """Whether the layer before the model's final normalisation is linear. A static table is."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    last: Any = model[len(model) - 2]
    if is_static(model) and len(model) == 2:
        return True
    return isinstance(last, Dense) and isinstance(last.activation_function, torch.nn.Identity) and not last.bias


def stretch_output(model: SentenceTransformer, stretch: NDArray[np.float32]) -> None:
    """Multiply the input of the final normalisation by `stretch`: in the linear layer before it, if there is one."""
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
        model.insert(len(model) - 1, linear_layer(stretch, model))
