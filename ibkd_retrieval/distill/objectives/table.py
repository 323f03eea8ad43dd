"""The objectives by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.distill.objectives.base import Sizes
    from ibkd_retrieval.distill.recipe import ObjectiveSettings


OBJECTIVES = ("ibkd", "infonce", "mse", "cosine", "crd", "hpd", "kl")
WITHOUT_PROJECTION = ("crd",)
"""Objectives that give no W, so that their students have no place in the teacher's space."""
TEXT_BY_TEXT = ("mse", "cosine", "hpd")
"""Objectives that compare a text with nothing but its own teacher vector: no contrast, no bank, no temperature."""
USUAL_TEMPERATURE = 0.05
TEMPERATURES = {"kl": 0.02}
"""Temperatures of objectives for which another than the usual one was better on dev sets."""


def with_temperature(settings: ObjectiveSettings, objective: str) -> ObjectiveSettings:
    """`settings` with the temperature that is the objective's own, where none was given."""
    if settings.temperature is not None:
        return settings
    return replace(settings, temperature=TEMPERATURES.get(objective, USUAL_TEMPERATURE))


def build_objective(name: str, sizes: Sizes, settings: ObjectiveSettings, dims: Sequence[int] = ()) -> torch.nn.Module:
    """Make an objective with its own parameters.

    Args:
        name: one of `OBJECTIVES`.
        sizes: of the vectors and of the training text.
        settings: temperature, HSIC weight and bandwidth.
        dims: lengths of prefixes to train at once, the full one first; () for the whole vector alone.

    Raises:
        UserError: no objective of that name, or one that cannot work with these sizes.
    """
    from ibkd_retrieval.distill.objectives.cosine import Cosine
    from ibkd_retrieval.distill.objectives.crd import CRD
    from ibkd_retrieval.distill.objectives.hpd import HPD
    from ibkd_retrieval.distill.objectives.ibkd import IBKD
    from ibkd_retrieval.distill.objectives.infonce import InfoNCE
    from ibkd_retrieval.distill.objectives.kl import SimilarityKL
    from ibkd_retrieval.distill.objectives.matryoshka import Matryoshka
    from ibkd_retrieval.distill.objectives.mse import MSE

    table = dict(zip(OBJECTIVES, (IBKD, InfoNCE, MSE, Cosine, CRD, HPD, SimilarityKL), strict=True))
    if name not in table:
        raise UserError(f"Unknown objective `{name}`: use one of {', '.join(OBJECTIVES)}.")
    objective: torch.nn.Module = table[name](sizes, with_temperature(settings, name))
    check_dims(dims, sizes.student, sizes.teacher)
    return Matryoshka(objective, dims) if dims else objective


def check_dims(dims: Sequence[int], student: int, teacher: int) -> None:
    """Make sure that a student can be trained at several lengths.

    Args:
        dims: the lengths, the full one first; () is fine.
        student: length of its whole vector.
        teacher: length of a teacher vector.

    Raises:
        UserError: the first is not the whole vector's, or more than the teacher has.
    """
    shown = ",".join(map(str, dims))
    if dims and dims[0] != student:
        raise UserError(f"`dims` {shown}: the student has {student} dimensions, start with {student}.")
    if dims and student > teacher:
        raise UserError(f"`dims` {shown}: start with at most the teacher's {teacher} dimensions.")
