import itertools
import math

import numpy as np
import pytest
import torch

from ibkd_retrieval.distill.objectives.functional import (
    cka,
    gaussian_kernel,
    hsic,
    infonce,
    median_bandwidth,
    nce,
    off_diagonal_mean,
    similarity_kl,
    squared_distances,
    unbiased_hsic,
)
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import DEFAULT_TEACHER, resolve_model_name


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


def test_unbiased_hsic_is_the_mean_over_all_quadruples_of_different_rows():
    k, l = gaussian_kernel(rows(6, 3)), gaussian_kernel(rows(6, 4, 1))  # noqa: E741
    each = [float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])) for i, j, q, r in itertools.permutations(range(6), 4)]
    assert float(unbiased_hsic(k, l)) == pytest.approx(sum(each) / len(each), rel=1e-10)


def test_unbiased_hsic_of_independent_variables_is_zero_on_average_and_the_biased_one_is_not():
    pairs = [(gaussian_kernel(rows(12, 3, seed)), gaussian_kernel(rows(12, 3, 1000 + seed))) for seed in range(300)]
    unbiased = torch.stack([unbiased_hsic(*pair) for pair in pairs])
    biased = torch.stack([hsic(*pair) for pair in pairs])
    assert abs(float(unbiased.mean())) < 3 * float(unbiased.std()) / math.sqrt(300)
    assert float(biased.mean()) > 10 * float(biased.std()) / math.sqrt(300)


def linear_kernel(x):
    """The kernel that CKA's closed form is known for."""
    return x @ x.T


@pytest.mark.parametrize("kernel", [linear_kernel, gaussian_kernel])
def test_cka_is_one_for_a_rotated_and_scaled_copy_and_does_not_change_by_it(kernel):
    x, y = rows(20, 5), rows(20, 4, 1)
    rotation = torch.linalg.qr(rows(5, 5, 2)).Q
    moved = 3.7 * x @ rotation
    assert float(cka(kernel(x), kernel(moved))) == pytest.approx(1)
    assert float(cka(kernel(x), kernel(y))) == pytest.approx(float(cka(kernel(moved), kernel(y))))
    assert 0 < float(cka(kernel(x), kernel(y))) < 0.9


def test_cka_with_linear_kernels_is_its_formula_on_centred_columns():
    x, y = rows(9, 3), rows(9, 4, 1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(cka(linear_kernel(x), linear_kernel(y)), expected)


@pytest.mark.parametrize("estimate", [unbiased_hsic, cka])
def test_the_other_estimators_have_the_gradient_they_should(estimate):
    x, s = rows(6, 3), rows(6, 4, 1).requires_grad_(True)
    fixed = gaussian_kernel(x, 0.4)
    assert torch.autograd.gradcheck(lambda s: estimate(fixed, gaussian_kernel(s, 0.7)), (s,))


def test_nce_is_its_formula_with_bank_and_without_duplicates():
    student, teacher, bank = unit(rows(4, 3)), unit(rows(4, 3, 1)), unit(rows(2, 3, 2))
    duplicate = torch.zeros(4, 6, dtype=torch.bool)
    duplicate[0, 2] = duplicate[3, 5] = True
    candidates, total = torch.cat([teacher, bank]), 0.0
    for i in range(4):
        for j in range(6):
            similar = math.exp(float(student[i] @ candidates[j]) / 0.3)
            # exp(s't/tau) / Z against N/M, Z = M times the mean: M = 40 texts, N = 5 negatives.
            critic = similar / (40 * 1.7) / (similar / (40 * 1.7) + 5 / 40)
            if not duplicate[i, j]:
                total -= math.log(critic if i == j else 1 - critic)
    loss = nce(student, teacher, 0.3, math.log(1.7), bank=bank, duplicate=duplicate)
    assert float(loss) == pytest.approx(total / 4, rel=1e-10)


def test_similarity_kl_is_its_formula_over_other_texts_and_zero_for_the_teachers_own_vectors():
    student, teacher, bank = unit(rows(4, 3)), unit(rows(4, 3, 1)), unit(rows(2, 3, 2))
    candidates, total = torch.cat([teacher, bank]), 0.0
    duplicate = torch.zeros(4, 6, dtype=torch.bool)
    duplicate[1, 5] = duplicate[2, 0] = True
    for i in range(4):
        others = [j for j in range(6) if j != i and not duplicate[i, j]]
        wanted, found = (
            [math.exp(float(vector @ candidates[j]) / 0.2) for j in others] for vector in (teacher[i], student[i])
        )
        for a, b in zip(wanted, found, strict=True):
            p, q = a / sum(wanted), b / sum(found)
            total += p * math.log(p / q)
    loss = similarity_kl(student, teacher, 0.2, bank=bank, duplicate=duplicate)
    assert float(loss) == pytest.approx(total / 4, rel=1e-10)
    assert float(similarity_kl(teacher, teacher, 0.2, bank=bank)) == pytest.approx(0, abs=1e-12)


def test_the_contrasts_have_the_gradient_they_should():
    student, teacher, bank = rows(4, 3).requires_grad_(True), unit(rows(4, 3, 1)), unit(rows(3, 3, 2))
    duplicate = torch.zeros(4, 7, dtype=torch.bool)
    duplicate[1, 5] = True
    assert torch.autograd.gradcheck(
        lambda s: nce(unit(s), teacher, 0.5, 0.4, bank=bank, duplicate=duplicate), (student,)
    )
    assert torch.autograd.gradcheck(
        lambda s: similarity_kl(unit(s), teacher, 0.5, bank=bank, duplicate=duplicate), (student,)
    )


@pytest.mark.skipif(resolve_model_name(DEFAULT_TEACHER) == DEFAULT_TEACHER, reason="needs the extra `demo`")
def test_on_real_embeddings_a_dependent_pair_stands_apart_from_an_independent_one():
    things = ("river", "court", "engine", "violin", "tax", "cell", "storm", "loan")
    states = ("measured twice", "described in a letter", "older than we thought", "late")
    first = [f"The {thing} was {state}." for thing in things for state in states]
    second = [text.replace("The ", "Somebody said that the ") for text in first]
    encoder = Encoder.load(DEFAULT_TEACHER, device="cpu", dtype="float32")
    x, y = (torch.from_numpy(encoder.encode(texts)).double() for texts in (first, second))
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    k, same, other = (gaussian_kernel(each) for each in (x, y, shuffled))
    assert cka(k, same) > 2 * cka(k, other)
    assert unbiased_hsic(k, same) > 10 * abs(unbiased_hsic(k, other))
