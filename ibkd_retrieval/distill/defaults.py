"""What a recipe needs, and what it becomes for the student at hand: objective, rate, merging, projection, lengths."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.distill.config import DistillSettings, FinetuneSettings, paper_preset, preset
from ibkd_retrieval.distill.plan import StudentPlan
from ibkd_retrieval.encoders.loading import position_limit
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


STAGES = ("distill", "finetune", "both")


def check_stage(stage: str, settings: DistillSettings, pairs: object | None, teachers: int = 1) -> None:
    """Make sure that a stage has what it needs.

    Args:
        stage: as the user named it.
        settings: the recipe of stage 1.
        pairs: what stage 2 learns from, if anything.
        teachers: how many there are.

    Raises:
        UserError: it is unknown, lacks pairs or has no use for them, or its students would live in a space that they
            leave or that no index is in.
    """
    if stage not in STAGES:
        raise UserError(f"Unknown stage `{stage}`: use one of {', '.join(STAGES)}.")
    if teachers > 1 and settings.output_space == "teacher":
        raise UserError(
            "--output-space teacher is for one teacher, whose index the student can search; none holds the vectors of "
            f"{teachers} side by side: leave --output-space out."
        )
    if stage == "distill":
        if pairs is not None:
            raise UserError("--pairs is for fine-tuning: give --stage finetune or --stage both too.")
        return
    if pairs is None:
        raise UserError(f"--stage {stage} learns from pairs of query and passage: name them with --pairs.")
    if settings.output_space == "teacher":
        raise UserError(
            f"--stage {stage} moves the student away from the teacher's space: leave --output-space out, or use "
            "--stage distill."
        )


def check_length(student: SentenceTransformer, max_length: int) -> None:
    """Refuse to train a student on more of a text than it can read.

    Raises:
        UserError: it reads less.
    """
    limit = position_limit(student)
    if limit is not None and max_length > limit:
        raise UserError(f"The student reads at most {limit} tokens: give --max-length {limit} or less.")


def check_freezing(student: SentenceTransformer, freeze_embeddings: bool) -> None:
    """Refuse to freeze all that a student has.

    Raises:
        UserError: the student is static, and its token table is to be frozen.
    """
    if freeze_embeddings and is_static(student):
        raise UserError("--freeze-embeddings leaves nothing of a static student to train: leave it out.")


def usual_objective(plan: StudentPlan, output_space: str) -> str:
    """What was best on dev sets, in short runs, for a kind of student: `kl` for a small model in a space of its own."""
    return "kl" if plan.trained_before and output_space == "student" else "ibkd"


def usual_learning_rate(plan: StudentPlan, output_space: str) -> float:
    """The peak for a kind of student: a good one forgets what it knows long before it learns at another's rate."""
    if not plan.trained_before:
        return 2e-3 if plan.model is None else 1e-2
    if plan.pooling is not None:  # A plain encoder, which knows nothing of sentences yet.
        return 1e-3
    return 5e-5 if output_space == "student" else 3e-4


def usual_merge(plan: StudentPlan, output_space: str) -> float:
    """The share of its weights that a kind of student keeps: half where it could encode texts before, in its space."""
    return 0.5 if plan.could_encode and output_space == "student" else 0.0


def with_preset(
    settings: DistillSettings, name: str | None, plan: StudentPlan, keep: Collection[str] = ()
) -> DistillSettings:
    """`settings` with the preset of a name, None for none; what is in `keep` stays as it is.

    Raises:
        UserError: no preset of that name.
    """
    if name is None:
        return settings
    if name == "thorough":
        return thorough_preset(settings, plan, keep)
    if name == "paper":
        return paper_preset(settings, keep)
    raise UserError(f"Unknown preset `{name}`: use thorough or paper.")


def thorough_preset(settings: DistillSettings, plan: StudentPlan, keep: Collection[str] = ()) -> DistillSettings:
    """For much text: long, with many negatives; and a student that was trained before may become another.

    Such a one learns by `ibkd`, at a high rate, with W trained and nothing merged, which took paraphrase-MiniLM-L3-v2
    from 77.5 % to 89.6 % of all-mpnet-base-v2; the usual recipe takes it to 78.9 % (docs/reproduction.md).

    Args:
        settings: what is not part of it stays as it is.
        plan: how the student is born.
        keep: names of settings, the objective's among them, that stay as they are too.
    """
    values: dict[str, Any] = {"steps": 3000, "bank_size": 16_384, "max_length": 256}
    if plan.could_encode and settings.output_space == "student":
        values |= {"objective": "ibkd", "learning_rate": 5e-4, "projection": "trained", "merge": 0.0}
    # None is the objective's own.
    return preset(settings, values, {"temperature": None}, keep)


def projection_for(settings: DistillSettings, plan: StudentPlan, dim: int, teacher_dim: int) -> str:
    """Which projection `auto` is for a student.

    Args:
        settings: the recipe.
        plan: how the student is born.
        dim: of the student's vectors.
        teacher_dim: of the teacher's.

    Raises:
        UserError: an isometry is asked for from more dimensions to fewer.
    """
    if settings.projection == "isometry" and dim > teacher_dim:
        raise UserError(
            f"--projection isometry keeps all {dim} dimensions of the student, and the teacher has {teacher_dim}: "
            f"give --projection trained, or --dim {teacher_dim} or less."
        )
    if settings.projection != "auto":
        return settings.projection
    # A least-squares map would first make a student that was trained before forget: all-MiniLM-L6-v2 goes from 0.660
    # to 0.609 nDCG@10 on SciFact's training queries by it alone. Layers cut out of a teacher have little to forget.
    keeps = plan.trained_before and settings.output_space == "student" and dim <= teacher_dim
    return "isometry" if keeps else "trained"


def read_as_much(student: SentenceTransformer, max_length: int) -> None:
    """Let a student read as much of a text as it is trained on, where it read less before."""
    if not is_static(student):
        student.max_seq_length = max(max_length, int(student.max_seq_length or max_length))


def without_forgetting(
    stage: str, settings: DistillSettings, finetuning: FinetuneSettings | None, progress: Progress
) -> tuple[DistillSettings, FinetuneSettings | None]:
    """Settings for a static student, with a weight of 0 for the term that it cannot have, which is said once."""
    terms = settings.objective_settings
    weights = [terms.hsic_weight] if stage != "finetune" and settings.objective == "ibkd" else []
    weights += [finetuning.hsic_weight] if stage != "distill" and finetuning is not None else []
    if any(weights):
        progress.say(
            "a static student's input representation is its output, so that there is nothing to forget: "
            "training without the forgetting term"
        )
    settings = replace(settings, objective_settings=replace(terms, hsic_weight=0.0))
    return settings, None if finetuning is None else replace(finetuning, hsic_weight=0.0)
