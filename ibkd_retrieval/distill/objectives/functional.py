"""The mathematics of the objectives as pure functions: dependence between vectors, and contrasts over similarities.

The two terms of IBKD are from Text Representation Distillation via Information Bottleneck Principle, arXiv 2311.05472.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances [n, n] between the rows of x [n, d]. None is below 0."""
    square = (x * x).sum(1)
    return (square[:, None] + square[None, :] - 2.0 * x @ x.T).clamp_min(0.0)


def median_bandwidth(distances: Tensor) -> Tensor:
    """The gamma for which the kernel of the median pair is exp(-1): 1 / median squared distance.

    Args:
        distances: squared distances [n, n]. The diagonal is left out.

    Returns:
        A scalar without gradient.
    """
    import torch

    n = distances.shape[0]
    # Without its first number, every (n + 1)th is of the diagonal. A mask would make the processor wait for a GPU.
    median = distances.detach().flatten()[1:].view(max(n - 1, 0), n + 1)[:, :-1].median()
    # The median of equal vectors is 0. Their kernel is all ones for any gamma.
    return 1.0 / median.clamp_min(torch.finfo(distances.dtype).eps)


def gaussian_kernel(x: Tensor, bandwidth: float | str = "median") -> Tensor:
    """exp(-gamma * ||x_i - x_j||^2) over the rows of x [n, d], as [n, n].

    Args:
        x: vectors, one per row.
        bandwidth: gamma, or "median" for `median_bandwidth`.
    """
    distances = squared_distances(x)
    gamma = median_bandwidth(distances) if bandwidth == "median" else float(bandwidth)
    return (-gamma * distances).exp()


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - K and L are the paper's names
    """Biased Hilbert-Schmidt independence criterion tr(K H L H) / (n-1)^2, with H = I - 11'/n.

    It is 0 if the kernels show no dependence, up to a bias of order 1/n.
    Gretton et al. 2005, Measuring Statistical Dependence with Hilbert-Schmidt Norms.

    Args:
        k: kernel matrix of the first variable [n, n].
        l: kernel matrix of the second [n, n].
    """
    n = k.shape[0]
    # H K H is K minus its row and column means, plus its mean. tr(HKH L) is then an elementwise product.
    centred = k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()
    return (centred * l).sum() / (n - 1) ** 2


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """The unbiased estimator of HSIC. Its mean is 0 for independent variables, so it may be below 0.

    [tr(K~ L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n(n-3)), where K~ and L~ have diagonals of 0.
    Song et al. 2012, Feature Selection via Dependence Maximization, theorem 2.

    Args:
        k: kernel matrix of the first variable [n, n], with n of at least 4.
        l: kernel matrix of the second [n, n].
    """
    n = k.shape[0]
    k, l = k - k.diagonal().diag(), l - l.diagonal().diag()  # noqa: E741
    product = (k * l).sum()
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    cross = (k.sum(0) * l.sum(0)).sum() * 2 / (n - 2)
    return (product + sums - cross) / (n * (n - 3))


def cka(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Centred kernel alignment HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), from 0 to 1.

    With linear kernels it does not change when a variable is rotated or scaled.
    Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, arXiv 1905.00414.

    Args:
        k: kernel matrix of the first variable [n, n].
        l: kernel matrix of the second [n, n].
    """
    import torch

    size = (hsic(k, k) * hsic(l, l)).clamp_min(torch.finfo(k.dtype).tiny).sqrt()
    return hsic(k, l) / size


def off_diagonal_mean(kernel: Tensor) -> Tensor:
    """The mean of a kernel matrix [n, n] without its diagonal. Near 0 or 1 the kernel shows nothing."""
    n = kernel.shape[0]
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


class Contrast(NamedTuple):
    """An InfoNCE loss, and the lower bound on mutual information that it gives, in nats."""

    loss: Tensor
    bound: Tensor


def infonce(
    student: Tensor, teacher: Tensor, temperature: float, *, bank: Tensor | None = None, duplicate: Tensor | None = None
) -> Contrast:
    """-1/n sum_i log softmax_j(cos(s_i, t_j) / tau) at j = i, over the batch and the bank.

    van den Oord et al. 2018, arXiv 1807.03748: I(S;T) >= log(candidates) - loss.

    Args:
        student: unit student vectors in the teacher's space [n, D].
        teacher: unit teacher vectors [n, D]. Row i belongs to student row i.
        temperature: tau.
        bank: additional unit teacher vectors [m, D], used as negatives only.
        duplicate: bool [n, n + m]: whether candidate j is the same text as text i, for j != i. Such a candidate is left
            out, so that no text is its own negative.
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


def regression(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - 1/n sum_i cos(s_i, t_i), which is half the mean squared difference of unit vectors.

    Args:
        student: unit student vectors in the teacher's space [n, D].
        teacher: unit teacher vectors [n, D]. Row i belongs to student row i.
    """
    return 1 - (student * teacher).sum(1).mean()


def nce(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    log_mean: float | Tensor,
    *,
    bank: Tensor | None = None,
    duplicate: Tensor | None = None,
) -> Tensor:
    """Noise-contrastive estimation with the critic h(s, t) = p(s, t) / (p(s, t) + N/M), p = exp(s't/tau) / Z.

    -1/n sum_i [log h(s_i, t_i) + sum_{j != i} log(1 - h(s_i, t_j))] over the batch's and the bank's t_j.
    Tian et al. 2020, Contrastive Representation Distillation, arXiv 1910.10699, equations 18 and 19, with the
    constant Z of their program (and of Wu et al. 2018, arXiv 1805.01978) that the equations leave out: M times the mean
    of exp(s't/tau). Without it any cosine above 0 is far too likely, and all that is learnt is to be far from
    everything. M, the number of texts, cancels. With both sides exchanged it is the other half of their loss.

    Args:
        student: unit student vectors [n, f].
        teacher: unit teacher vectors [n, f]. Row i belongs to student row i.
        temperature: tau.
        log_mean: log of the mean of exp(s't/tau) over pairs of texts, a constant.
        bank: further unit teacher vectors, only ever negatives [m, f].
        duplicate: bool [n, n + m], as in `infonce`.
    """
    import torch

    candidates = teacher if bank is None else torch.cat([teacher, bank])
    odds = student @ candidates.T / temperature - log_mean - math.log(candidates.shape[0] - 1)
    softplus = torch.nn.functional.softplus
    # log h = -softplus(-odds) and log(1 - h) = -softplus(odds).
    attraction = softplus(-odds.diagonal())
    repulsion = softplus(odds).masked_fill(_same_text(odds, duplicate), 0.0).sum(1)
    return (attraction + repulsion).mean()


def similarity_kl(
    student: Tensor, teacher: Tensor, temperature: float, *, bank: Tensor | None = None, duplicate: Tensor | None = None
) -> Tensor:
    """1/n sum_i KL(p_i || q_i), p_i = softmax_j(t_i't_j / tau) and q_i = softmax_j(s_i't_j / tau) over batch and bank.

    Fang et al. 2021, SEED: Self-supervised Distillation for Visual Representation, arXiv 2101.04731; without the text
    itself among the candidates, j != i. With it, at the temperatures of retrieval, p_i is all but one at j = i, and
    the divergence is InfoNCE again.

    Args:
        student: unit student vectors in the teacher's space [n, D].
        teacher: unit teacher vectors [n, D]. Row i belongs to student row i.
        temperature: tau, the same on both sides.
        bank: further unit teacher vectors to compare with [m, D]; n + m is 3 at least.
        duplicate: bool [n, n + m], as in `infonce`.
    """
    import torch

    candidates = teacher if bank is None else torch.cat([teacher, bank])
    found = student @ candidates.T / temperature
    left_out = _same_text(found, duplicate)
    # A finite number whose exponential is 0, because the divergence multiplies it.
    nothing = torch.finfo(student.dtype).min / 4
    wanted = (teacher @ candidates.T / temperature).masked_fill(left_out, nothing).log_softmax(1)
    found = found.masked_fill(left_out, nothing).log_softmax(1)
    return torch.nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _same_text(logits: Tensor, duplicate: Tensor | None) -> Tensor:
    """Whether a candidate is the row's own text (j = i) or a copy of it: bool [n, n + m], the shape of `logits`."""
    import torch

    own = torch.zeros_like(logits, dtype=torch.bool)
    own.fill_diagonal_(True)
    return own if duplicate is None else own | duplicate
