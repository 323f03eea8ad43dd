import math

import numpy as np
import pytest
import torch

from ibkd_retrieval.distill.information import (
    gaussian_kernel,
    hsic,
    infonce,
    median_bandwidth,
    off_diagonal_mean,
    squared_distances,
)


def rows(n, d, seed=0, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, d, generator=generator, dtype=dtype)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def test_hsic_is_the_trace_formula_with_an_explicit_centring_matrix():
    k, l = gaussian_kernel(rows(9, 3)), gaussian_kernel(rows(9, 4, 1))  # noqa: E741
    h = torch.eye(9, dtype=torch.float64) - 1 / 9
    torch.testing.assert_close(hsic(k, l), torch.trace(k @ h @ l @ h) / 64)


@pytest.mark.parametrize("bandwidth", ["median", 0.3])
def test_the_gaussian_kernel_is_its_formula_pair_by_pair(bandwidth):
    x = rows(7, 3)
    distances = [[float(((a - b) ** 2).sum()) for b in x] for a in x]
    pairs = [distances[i][j] for i in range(7) for j in range(7) if i != j]
    gamma = 1 / np.percentile(pairs, 50, method="lower") if bandwidth == "median" else bandwidth
    expected = torch.tensor([[math.exp(-gamma * value) for value in row] for row in distances], dtype=torch.float64)
    torch.testing.assert_close(gaussian_kernel(x, bandwidth), expected)


def test_the_median_pair_has_kernel_one_over_e():
    x = rows(11, 4)
    off = ~torch.eye(11, dtype=torch.bool)
    median = squared_distances(x)[off].median()
    assert math.exp(-float(median_bandwidth(squared_distances(x)) * median)) == pytest.approx(math.exp(-1))
    assert float(gaussian_kernel(x)[off].median()) == pytest.approx(math.exp(-1))


def test_equal_vectors_have_a_kernel_of_ones_and_no_dependence():
    k = gaussian_kernel(torch.ones(6, 3))
    assert torch.equal(k, torch.ones(6, 6))
    assert float(hsic(k, gaussian_kernel(rows(6, 3, dtype=torch.float32)))) == pytest.approx(0, abs=1e-6)


def pull(x, s, bandwidth):
    s = s.clone().requires_grad_(True)
    value = hsic(gaussian_kernel(x, bandwidth), gaussian_kernel(s, bandwidth))
    value.backward()
    return float(value.detach()), float(s.grad.norm())


def test_a_fixed_width_sees_nothing_in_long_vectors_and_the_median_on_unit_vectors_does():
    x, s = (6 * unit(rows(32, 64, seed)) for seed in (0, 1))
    torch.testing.assert_close(gaussian_kernel(s, 1.0), torch.eye(32, dtype=torch.float64), atol=1e-9, rtol=0)
    value, gradient = pull(x, s, 1.0)
    assert value == pytest.approx(1 / 31)
    assert gradient < 1e-9
    assert pull(unit(x), unit(s), "median")[1] > 1e-4
    assert float(off_diagonal_mean(gaussian_kernel(s, 1.0))) < 1e-9
    assert 0.2 < float(off_diagonal_mean(gaussian_kernel(unit(s)))) < 0.6


def test_hsic_of_a_dependent_pair_exceeds_that_of_an_independent_one():
    x = rows(64, 4)
    dependent = hsic(gaussian_kernel(x), gaussian_kernel(x.tanh() @ rows(4, 6, 5)))
    independent = hsic(gaussian_kernel(x), gaussian_kernel(rows(64, 6, 7)))
    assert dependent > 2 * independent


def test_hsic_of_gaussian_kernels_has_the_gradient_it_should():
    x, s = rows(6, 3), rows(6, 4, 1).requires_grad_(True)
    fixed = gaussian_kernel(x, 0.4)
    assert torch.autograd.gradcheck(lambda s: hsic(fixed, gaussian_kernel(s, 0.7)), (s,))


def direct_infonce(student, teacher, temperature, bank, duplicate):
    candidates = torch.cat([teacher, bank])
    total = 0.0
    for i in range(len(student)):
        logits = [float(student[i] @ candidate) / temperature for candidate in candidates]
        kept = [math.exp(value) for j, value in enumerate(logits) if not duplicate[i, j]]
        total -= math.log(math.exp(logits[i]) / sum(kept))
    return total / len(student)


def test_infonce_is_its_formula_with_bank_and_without_duplicates():
    student, teacher, bank = unit(rows(5, 6)), unit(rows(5, 6, 1)), unit(rows(4, 6, 2))
    duplicate = torch.zeros(5, 9, dtype=torch.bool)
    duplicate[0, 3] = duplicate[3, 0] = duplicate[2, 7] = True
    contrast = infonce(student, teacher, 0.2, bank=bank, duplicate=duplicate)
    assert float(contrast.loss) == pytest.approx(direct_infonce(student, teacher, 0.2, bank, duplicate), rel=1e-10)
    assert float(contrast.bound) == pytest.approx(math.log(9) - float(contrast.loss))


def test_infonce_has_the_gradient_it_should():
    student, teacher, bank = rows(4, 3).requires_grad_(True), unit(rows(4, 3, 1)), unit(rows(3, 3, 2))
    duplicate = torch.zeros(4, 7, dtype=torch.bool)
    duplicate[1, 5] = True
    assert torch.autograd.gradcheck(
        lambda s: infonce(unit(s), teacher, 0.5, bank=bank, duplicate=duplicate).loss, (student,)
    )
