"""The two information terms of IBKD as pure functions.

Text Representation Distillation via Information Bottleneck Principle, arXiv 2311.05472.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of x [n, d], as [n, n], never below 0."""
    square = (x * x).sum(1)
    return (square[:, None] + square[None, :] - 2.0 * x @ x.T).clamp_min(0.0)


def median_bandwidth(distances: Tensor) -> Tensor:
    """Kernel width gamma that puts the kernel of the median pair at exp(-1): 1 / median squared distance.

    Args:
        distances: squared distances [n, n]; its diagonal is left out.

    Returns:
        A scalar without gradient: the width follows the batch but does not pull on it.
    """
    import torch

    n = distances.shape[0]
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=distances.device)
    median = distances.detach()[off_diagonal].median()
    # A batch of equal vectors has median 0; any width gives the same (all-ones) kernel then.
    return 1.0 / median.clamp_min(torch.finfo(distances.dtype).eps)


def gaussian_kernel(x: Tensor, bandwidth: float | str = "median") -> Tensor:
    """exp(-gamma * ||x_i - x_j||^2) over the rows of x [n, d], as [n, n].

    Args:
        x: one vector a row.
        bandwidth: gamma as a number, or "median" for `median_bandwidth`.
    """
    distances = squared_distances(x)
    gamma = median_bandwidth(distances) if bandwidth == "median" else float(bandwidth)
    return (-gamma * distances).exp()


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - K and L are the paper's names
    """Biased Hilbert-Schmidt independence criterion tr(K H L H) / (n-1)^2, with H = I - 11'/n.

    Zero when the kernels see no dependence, up to a bias of order 1/n.
    Gretton et al. 2005, Measuring Statistical Dependence with Hilbert-Schmidt Norms.

    Args:
        k: kernel matrix of the first variable [n, n].
        l: kernel matrix of the second [n, n].
    """
    n = k.shape[0]
    # H K H = K minus its row and column means plus its mean; tr(HKH L) is then one elementwise product.
    centred = k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()
    return (centred * l).sum() / (n - 1) ** 2


def off_diagonal_mean(kernel: Tensor) -> Tensor:
    """Mean of a kernel matrix [n, n] without its diagonal: near 0 or 1 means that the kernel sees nothing."""
    n = kernel.shape[0]
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


class Contrast(NamedTuple):
    """An InfoNCE loss and the lower bound on mutual information (nats) that it gives."""

    loss: Tensor
    bound: Tensor


def infonce(
    student: Tensor, teacher: Tensor, temperature: float, *, bank: Tensor | None = None, duplicate: Tensor | None = None
) -> Contrast:
    """-1/n sum_i log softmax_j(cos(s_i, t_j) / tau) at j = i, over the batch and the bank.

    van den Oord et al. 2018, arXiv 1807.03748: I(S;T) >= log(candidates) - loss.

    Args:
        student: unit student vectors in the teacher's space [n, D].
        teacher: unit teacher vectors [n, D]; row i belongs to student row i.
        temperature: tau.
        bank: further unit teacher vectors, only ever negatives [m, D].
        duplicate: bool [n, n + m], True where candidate j is the same text as text i, j != i; such a
            candidate is left out, so that no text is its own negative.
    """
    import torch

    candidates = teacher if bank is None else torch.cat([teacher, bank])
    logits = student @ candidates.T / temperature
    if duplicate is not None:
        logits = logits.masked_fill(duplicate, -math.inf)
    target = torch.arange(student.shape[0], device=student.device)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    loss = torch.nn.functional.cross_entropy(logits, target)
    return Contrast(loss, math.log(candidates.shape[0]) - loss.detach())
