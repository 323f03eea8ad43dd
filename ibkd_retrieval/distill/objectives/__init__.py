"""The distillation objectives, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.distill.objectives.base import Sizes
    from ibkd_retrieval.distill.sections import ObjectiveConfig


OBJECTIVES = ("ibkd", "infonce", "mse", "cosine", "crd", "hpd", "kl")
WITHOUT_PROJECTION = ("crd",)
"""Objectives without W, whose students cannot be in the teacher's vector space."""
TEXT_BY_TEXT = ("mse", "cosine", "hpd")
"""Objectives that compare a text with its own teacher vector only, without contrast, bank and temperature."""
USUAL_TEMPERATURE = 0.05
TEMPERATURES = {"kl": 0.02}
"""The temperatures of objectives for which the usual one was worse on dev sets."""


def build_objective(config: ObjectiveConfig, sizes: Sizes, dims: Sequence[int] = ()) -> torch.nn.Module:
    """Make an objective with its own parameters.

    Args:
        config: its name and settings, all of them chosen.
        sizes: dimensions of the student's and the teacher's vectors.
        dims: Matryoshka dims to train at once, largest first. () trains the full length only.

    Raises:
        UserError: the objective is unknown or does not fit these sizes.
    """
    from ibkd_retrieval.distill.objectives.baselines import HPD, MSE, Cosine, InfoNCE, SimilarityKL
    from ibkd_retrieval.distill.objectives.crd import CRD
    from ibkd_retrieval.distill.objectives.ibkd import IBKD
    from ibkd_retrieval.distill.objectives.matryoshka import Matryoshka

    table = dict(zip(OBJECTIVES, (IBKD, InfoNCE, MSE, Cosine, CRD, HPD, SimilarityKL), strict=True))
    if config.name not in table:
        raise UserError(f"Unknown objective `{config.name}`: use one of {', '.join(OBJECTIVES)}.")
    objective: torch.nn.Module = table[config.name](sizes, config)
    check_dims(dims, sizes.student, sizes.teacher)
    return Matryoshka(objective, dims) if dims else objective


def check_dims(dims: Sequence[int], student: int, teacher: int) -> None:
    """Check the Matryoshka dims of a student.

    Args:
        dims: the dims, largest first. () is valid.
        student: dimensions of the student's full vector.
        teacher: dimensions of a teacher vector.

    Raises:
        UserError: the first dim is not the student's, or it is larger than the teacher's.
    """
    shown = ",".join(map(str, dims))
    if dims and dims[0] != student:
        raise UserError(f"`dims` {shown}: the student has {student} dimensions, start with {student}.")
    if dims and student > teacher:
        raise UserError(f"`dims` {shown}: start with at most the teacher's {teacher} dimensions.")
