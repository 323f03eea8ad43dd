"""The optimiser, its learning rate, and the parts of a step that every stage shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import StepTimes

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.distill.objectives.base import LossTerms
    from ibkd_retrieval.distill.training.chunks import EncodedBatch


def adamw(rates: Iterable[tuple[torch.nn.Parameter, float]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over parameters with their peak learning rates; matrices alone decay."""
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
) -> dict[str, float]:
    """Add the gradient of a batch, one of `share` of its step, and return its figures.

    The two backward passes are one, parted where the student ends so that each can be timed.

    Args:
        terms: the loss of the vectors.
        encoded: the student's vectors.
        share: batches a step, whose losses are averaged.
        times: the clock.
        detailed: whether to measure the watched terms' gradient norms too.
    """
    with times.part("objective"):
        values = loss_figures(terms)
    if detailed:
        values |= watched_gradients(terms, encoded.vectors, times)
    with times.part("objective"):
        (terms.total / share).backward()  # type: ignore[no-untyped-call]
    with times.part("student"):
        encoded.backward()
    return values


def finish_step(
    optimizer: torch.optim.Optimizer,
    batches: Sequence[dict[str, float]],
    student: torch.nn.Module,
    objective: torch.nn.Module | None,
    times: StepTimes,
) -> dict[str, float]:
    """Apply the gradients of a step's batches, and return the means of their figures with the gradient's norm."""
    ranks.sum_gradients(student.parameters(), objective.parameters() if objective is not None else ())
    values = {name: sum(each[name] for each in batches) / len(batches) for name in batches[0]}
    with times.part("optimiser"):
        norm = apply_gradients(optimizer, values["loss"])
    return values | {"gradient": norm}


def set_rates(optimizer: torch.optim.Optimizer, number: int, steps: int, warmup: float) -> float:
    """Set the rates of step `number`, linear warm-up then linear to zero, and return their share of the peak."""
    warm = max(1, round(warmup * steps))
    factor = (number + 1) / warm if number < warm else max(0.0, (steps - number) / max(1, steps - warm))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return factor


def apply_gradients(optimizer: torch.optim.Optimizer, loss: float) -> float:
    """Clip the gradients to norm 1, take a step, and return their norm before.

    Where loss or norm is not finite the weights stay as they were, and the caller sees from the figures that they did.
    """
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True))
    if math.isfinite(loss) and math.isfinite(norm):
        optimizer.step()
    return norm


def loss_figures(terms: LossTerms) -> dict[str, float]:
    """The loss and its parts as numbers."""
    return {"loss": float(terms.total.detach())} | {name: float(value) for name, value in terms.terms.items()}


def watched_gradients(terms: LossTerms, vectors: torch.Tensor, times: StepTimes) -> dict[str, float]:
    """The norm of each watched term's gradient in the student's vectors [n, d]; the graph of the loss stays whole."""
    import torch

    norms = {}
    for name, term in terms.watch.items():
        with times.part(name):
            (gradient,) = torch.autograd.grad(term, vectors, retain_graph=True)
        norms[f"{name}_gradient"] = float(gradient.norm())
    return norms
