"""What both stages share: the student in training, its optimiser, and a step."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.batches import training_tokens
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import StepTimes
from ibkd_retrieval.distill.training.loop import Pace
from ibkd_retrieval.encoders.device import give_freed_memory_back
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.distill.objectives.base import LossTerms
    from ibkd_retrieval.distill.training.chunks import EncodedBatch


class StudentRun:
    """A student in training, its optimiser, and the steps of a stage.

    Attributes:
        rate_name: the parameter that sets the learning rate, for error messages.
        pace: length of the run.
        modules: the modules that are saved in checkpoints, by name. All but the student and the objective are fixed.
        optimizer: the optimiser.
    """

    rate_name: str
    pace: Pace
    optimizer: torch.optim.Optimizer

    def __init__(
        self, student: SentenceTransformer, texts: TrainingTexts, config: DistillConfig, progress: Progress
    ) -> None:
        """Tokenise `texts`, and take over `student` until `close`."""
        import torch

        from ibkd_retrieval.distill.training.student_module import StudentModule

        training = config.training
        torch.manual_seed(training.seed)
        self.config, self.training_texts, self.device = config, texts, str(student.device)
        # A static student reads whole texts wherever it encodes. Trained on their beginnings, it would not fit them.
        length = sys.maxsize if is_static(student) else training.max_length
        self.token_ids = training_tokens(student, texts, length, progress)
        self.module = StudentModule(student, training.dtype, freeze_embeddings=config.student.freeze_embeddings)
        self.modules: dict[str, torch.nn.Module] = {"student": student}

    def _optimise(
        self, rates: Sequence[tuple[torch.nn.Parameter, float]], teacher: object, texts: int, scores: int
    ) -> None:
        """Make the optimiser, and choose chunks that keep within the memory.

        Args:
            rates: trained parameters with their peak learning rates, apart from the student's.
            teacher: the teacher, which is in memory too.
            texts: number of texts of a batch.
            scores: number of similarities that the loss computes for a batch.
        """
        from ibkd_retrieval.distill.training.chunks import ChunkedStudent, fixed_bytes, plan_chunks

        training = self.config.training
        own = [(p, self.learning_rate) for p in self.module.parameters() if p.requires_grad]
        self.optimizer = adamw([*own, *rates], training.weight_decay)
        give_freed_memory_back()
        fixed = fixed_bytes(self.modules.values(), teacher, self.training_texts, self.token_ids, scores)
        plan = plan_chunks(self.module, self.token_ids, texts, training.memory, fixed)
        self.student = ChunkedStudent(self.module, self.token_ids, plan)

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of the student."""
        raise NotImplementedError

    def start(self) -> None:
        """Prepare for the first step. It is not called if a checkpoint is resumed."""

    def step(self, number: int, *, detailed: bool) -> dict[str, float]:
        """Run one optimiser step and return its figures, with gradient norms and times if `detailed`."""
        training = self.config.training
        times = StepTimes(self.device, active=detailed)
        factor = set_rates(self.optimizer, number, self.pace.steps, training.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        batches = []
        for batch_number in range(number * training.accumulate, (number + 1) * training.accumulate):
            encoded, terms = self.forward(batch_number, times)
            batches.append(backward(terms, encoded, training.accumulate, times, detailed=detailed))
        values = finish_step(self.optimizer, batches, self.module, self.modules.get("objective"), times)
        return values | {"learning_rate": self.learning_rate * factor} | times.figures()

    def forward(self, number: int, times: StepTimes) -> tuple[EncodedBatch, LossTerms]:
        """The student's vectors of a batch, and their loss."""
        raise NotImplementedError

    def untrained(self) -> Encoder:
        """A copy of the initialised student, as an encoder."""
        return self.module.as_encoder(self.module.model, self.config.training.dtype)

    def snapshot(self) -> Encoder:
        """A copy of the student as it would be saved now, as an encoder."""
        return self.untrained()

    def close(self) -> None:
        """Restore the student's original settings."""
        self.module.close()


def adamw(rates: Iterable[tuple[torch.nn.Parameter, float]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over parameters with their peak learning rates. Only matrices have weight decay."""
    import torch

    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter, rate in rates:
        groups.setdefault((rate, weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
        betas=(0.9, 0.98),
        fused=True,
    )


def backward(
    terms: LossTerms,
    encoded: EncodedBatch,
    share: int,
    times: StepTimes,
    *,
    detailed: bool,
) -> dict[str, torch.Tensor]:
    """Add the gradient of a batch, and return its figures, which are still on the device.

    The backward pass has two parts, which meet at the student's vectors, so that each can be timed.

    Args:
        terms: the loss of the vectors.
        encoded: the student's vectors.
        share: number of batches of the step, whose losses are averaged.
        times: records the times of the parts.
        detailed: whether to measure the gradient norms of watched terms too.
    """
    with times.part("objective"):
        values = {name: each.detach() for name, each in ({"loss": terms.total} | terms.terms).items()}
    if detailed:
        values |= watched_gradients(terms, encoded.vectors, times)
    with times.part("objective"):
        (terms.total / share).backward()  # type: ignore[no-untyped-call]
    with times.part("student"):
        encoded.backward()
    return values


def finish_step(
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Mapping[str, torch.Tensor]],
    student: torch.nn.Module,
    objective: torch.nn.Module | None,
    times: StepTimes,
) -> dict[str, float]:
    """Apply the gradients of a step's batches. Returns the means of their figures, and the gradient's norm."""
    ranks.sum_gradients(student.parameters(), objective.parameters() if objective is not None else ())
    with times.part("optimiser"):
        return apply_gradients(optimizer, batches)


def set_rates(optimizer: torch.optim.Optimizer, number: int, steps: int, warmup: float) -> float:
    """Set the rates of step `number`: linear warm-up, then linear decay to zero. Returns their share of the peak."""
    warm = max(1, round(warmup * steps))
    factor = (number + 1) / warm if number < warm else max(0.0, (steps - number) / max(1, steps - warm))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return factor


def apply_gradients(
    optimizer: torch.optim.Optimizer, batches: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Clip the gradients to norm 1 and take a step.

    If the loss or the norm is not finite, the weights are not changed. The caller checks both figures.

    Args:
        optimizer: the optimiser of all parameters.
        batches: figures of each batch, scalars by the same names. "loss" is one of them.

    Returns:
        The means of the figures, and as "gradient" the norm of the gradients before clipping.
    """
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
    # All figures are read at once, because the processor waits for a GPU each time.
    figures = [figure for each in batches for figure in each.values()]
    *read, gradient = torch.stack([each.to(norm.device, torch.float64) for each in (*figures, norm)]).tolist()
    width = len(batches[0])
    values = {name: sum(read[place::width]) / len(batches) for place, name in enumerate(batches[0])}
    if math.isfinite(values["loss"]) and math.isfinite(gradient):
        optimizer.step()
    return values | {"gradient": gradient}


def watched_gradients(terms: LossTerms, vectors: torch.Tensor, times: StepTimes) -> dict[str, torch.Tensor]:
    """The norm of each watched term's gradient in the student's vectors [n, d]. The graph of the loss is kept."""
    import torch

    norms = {}
    for name, term in terms.watch.items():
        with times.part(name):
            (gradient,) = torch.autograd.grad(term, vectors, retain_graph=True)
        norms[f"{name}_gradient"] = gradient.norm()
    return norms
