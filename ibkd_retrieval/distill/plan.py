"""How the user wants the student to be born."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.loading import load_sentence_transformer, short_model_name
from ibkd_retrieval.encoders.students import static_student, student_from_layers
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


STATIC = "static"


@dataclass(frozen=True)
class StudentPlan:
    """How the student is born.

    Attributes:
        model: a small model by folder or hub name, or "static" for one vector a token out of the teacher; None takes
            layers of the teacher.
        layers: how many layers, evenly spaced, or their positions; only without `model`.
        dim: output length, None for the model's own.
        pooling: for a plain transformers encoder.
    """

    model: str | None = None
    layers: int | tuple[int, ...] | None = None
    dim: int | None = None
    pooling: str | None = None

    @property
    def trained_before(self) -> bool:
        """Whether it is a small model that others trained, and not made out of the teacher."""
        return self.model not in (None, STATIC)

    @property
    def could_encode(self) -> bool:
        """Whether it is such a model as a whole, whose vectors were of use before."""
        return self.trained_before and self.pooling is None and self.layers is None

    def name(self, teacher: str, objective: str) -> str:
        """A folder name that tells students apart: `all-MiniLM-L6-v2-l2-d128-ibkd`."""
        parts = [
            f"{short_model_name(teacher)}-static" if self.model == STATIC else short_model_name(self.model or teacher)
        ]
        if self.layers is not None:
            parts.append(f"l{self.layers}" if isinstance(self.layers, int) else "l" + "_".join(map(str, self.layers)))
        if self.dim is not None:
            parts.append(f"d{self.dim}")
        return "-".join([*parts, objective])


def born_student(
    plan: StudentPlan, teacher: SentenceTransformer, teacher_name: str, device: str
) -> SentenceTransformer:
    """Make the student a plan describes, ending in Normalize.

    Raises:
        UserError: the plan cannot work with this teacher.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    if plan.pooling is not None and plan.model in (None, STATIC):
        raise UserError("--pooling is for a small model named with --student: leave it out.")
    if plan.model == STATIC:
        if plan.layers is not None:
            raise UserError("A static student has no layers: leave --layers out.")
        return static_student(teacher_name, plan.dim, device)
    if plan.model is None:
        if plan.layers is None:
            raise UserError("No student: name a small model with --student, or take --layers N of the teacher.")
        student = student_from_layers(teacher, plan.layers)
    else:
        student = load_sentence_transformer(plan.model, device=device, pooling=plan.pooling)
        if plan.layers is not None:
            student = student_from_layers(student, plan.layers)
    if not any(isinstance(module, Normalize) for module in student):
        # Objectives train directions only; the lengths of a student compared by inner product would mean nothing.
        student.append(Normalize())
    return student
