"""The objectives by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.distill.objectives.base import ObjectiveSettings


OBJECTIVES = ("ibkd", "infonce", "mse")


def build_objective(name: str, student_dim: int, teacher_dim: int, settings: ObjectiveSettings) -> torch.nn.Module:
    """Make an objective with its own parameters.

    Args:
        name: one of `OBJECTIVES`.
        student_dim: length of a student vector, d.
        teacher_dim: length of a teacher vector, D.
        settings: temperature, HSIC weight and bandwidth.

    Raises:
        UserError: no objective of that name.
    """
    from ibkd_retrieval.distill.objectives.ibkd import IBKD
    from ibkd_retrieval.distill.objectives.infonce import InfoNCE
    from ibkd_retrieval.distill.objectives.mse import MSE

    table = dict(zip(OBJECTIVES, (IBKD, InfoNCE, MSE), strict=True))
    if name not in table:
        raise UserError(f"Unknown objective `{name}`: use one of {', '.join(OBJECTIVES)}.")
    return table[name](student_dim, teacher_dim, settings)
