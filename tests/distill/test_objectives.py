import math

import numpy as np
import pytest
import torch

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.objectives import OBJECTIVES, WITHOUT_PROJECTION, build_objective
from ibkd_retrieval.distill.objectives.base import Batch, Sizes
from ibkd_retrieval.distill.objectives.functional import hsic, unbiased_hsic
from ibkd_retrieval.distill.sections import ObjectiveConfig
from ibkd_retrieval.encoders.students import principal_directions
from ibkd_retrieval.errors import UserError

SIZES = Sizes(student=5, teacher=8)


def chosen(**given):
    return decided(DistillConfig().with_parameters(**given))


def build(name, dims=(), sizes=SIZES, **given):
    torch.manual_seed(1)
    values = {"objective": name, "regression_weight": 0.0} | given
    return build_objective(chosen(**values).objective, sizes, dims)


def batch(n=12, d=5, teacher=8):
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    student = unit(torch.randn(n, d), dim=-1).requires_grad_(True)
    return Batch(student, unit(torch.randn(n, teacher), dim=-1), torch.randn(n, 7), None, None)


def test_an_unknown_objective_names_the_known_ones():
    with pytest.raises(UserError, match="ibkd, infonce, mse"):
        build("magic")
    with pytest.raises(UserError, match="ibkd, infonce, mse"):
        build_objective(ObjectiveConfig("magic"), SIZES)


@pytest.mark.parametrize(("name", "usual"), [("ibkd", 0.05), ("crd", 0.05), ("kl", 0.02)])
def test_an_objective_has_its_own_temperature_where_none_is_given(name, usual):
    # It is the number that is recorded, and that a resumed run must have too.
    for given, found in ((None, usual), (0.3, 0.3)):
        settings = chosen(objective=name, temperature=given)
        assert settings.distilling_record()["objective_settings"]["temperature"] == found
        objective = build(name, temperature=given)
        assert getattr(objective, "keep", objective).temperature == found


@pytest.mark.parametrize("dims", [(), (5, 3, 1)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_pulls_on_the_student_and_on_what_it_trains_itself(name, dims):
    given, objective = batch(), build(name, dims)
    objective(given).total.backward()
    assert given.student.grad.norm() > 0
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    assert all(parameter.grad.norm() > 0 for parameter in trained)
    held = name == "hpd" or (dims and name != "crd")
    assert len(trained) == (0 if held else 2 if name == "crd" else 1)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in WITHOUT_PROJECTION])
def test_w_maps_the_students_space_to_the_teachers(name):
    assert build(name).projection.weight.shape == build(name, (5, 2)).projection.weight.shape == (8, 5)


def test_ibkd_without_weight_on_forgetting_is_infonce():
    given = batch()
    ibkd, infonce = (build(name, hsic_weight=0.0) for name in ("ibkd", "infonce"))
    with torch.no_grad():
        infonce.projection.weight.copy_(ibkd.projection.weight)
    torch.testing.assert_close(ibkd(given).total, infonce(given).total, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "dims"), [("ibkd", ()), ("infonce", ()), ("kl", ()), ("ibkd", (5, 2))])
def test_the_regression_is_added_to_the_contrast_with_its_weight(name, dims):
    given = batch()
    plain, weighted = build(name, dims, temperature=0.1), build(name, dims, temperature=0.1, regression_weight=3.0)
    without, terms = plain(given), weighted(given)
    expected = []
    for dim in dims or (5,):
        w = weighted.projection.weight.detach().double().numpy()[:, :dim]
        image = given.student.detach().double().numpy()[:, :dim] @ w.T
        cosines = (image * given.teacher.double().numpy()).sum(1) / np.linalg.norm(image, axis=1)
        expected.append(1 - cosines.mean())
    assert float(terms.terms["regression"]) == pytest.approx(expected[0], rel=1e-5)
    assert float((terms.total - without.total).detach()) == pytest.approx(3 * np.mean(expected), rel=1e-4)
    assert "regression" not in without.terms
    assert without.watch.keys() == terms.watch.keys()


def test_the_watched_gradient_leaves_the_graph_of_the_loss_whole():
    given = batch()
    terms = build("ibkd")(given)
    (gradient,) = torch.autograd.grad(terms.watch["hsic"], given.student, retain_graph=True)
    assert gradient.norm() > 0
    terms.total.backward()
    assert torch.isfinite(given.student.grad).all()


def test_cosine_is_half_the_squared_difference_of_unit_vectors_and_mse_minds_lengths():
    given, cosine, mse = batch(), build("cosine"), build("mse")
    with torch.no_grad():
        mse.projection.weight.copy_(cosine.projection.weight)
    projected = given.student @ cosine.projection.weight.T
    angle = (torch.nn.functional.normalize(projected, dim=1) - given.teacher).square().sum(1).mean() / 2
    torch.testing.assert_close(cosine(given).total, angle)
    torch.testing.assert_close(mse(given).total, (projected - given.teacher).square().sum(1).mean())


def test_crd_is_the_sum_of_the_student_s_and_the_teacher_s_contrast_pair_by_pair():
    plain, objective = batch(), build("crd", temperature=0.5)
    objective.start(plain.student.detach().numpy(), plain.teacher.numpy())
    bank = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    duplicate = torch.zeros(12, 15, dtype=torch.bool)
    duplicate[0, 4] = duplicate[4, 0] = duplicate[7, 13] = True
    given = Batch(plain.student, plain.teacher, plain.inputs, bank, duplicate)
    images = lambda vectors, layer: torch.nn.functional.normalize(vectors @ layer.weight.T, dim=1).detach().double()  # noqa: E731
    s = images(given.student.detach(), objective.of_student)
    t = images(torch.cat([given.teacher, bank]), objective.of_teacher)

    apart = ~np.eye(12, dtype=bool)
    mean = float((s @ t[:12].T / 0.5).exp().numpy()[apart].mean())

    def half(anchors, candidates):
        total = 0.0
        for i in range(12):
            for j in range(len(candidates)):
                similar = math.exp(float(anchors[i] @ candidates[j]) / 0.5)
                critic = similar / (similar + (len(candidates) - 1) * mean)
                total -= 0.0 if duplicate[i, j] else math.log(critic if i == j else 1 - critic)
        return total / 12

    terms = objective(given)
    assert float(terms.terms["nce"]) == pytest.approx(half(s, t), rel=1e-5)
    assert float(terms.terms["nce_of_teacher"]) == pytest.approx(half(t[:12], s), rel=1e-5)
    assert float(terms.total.detach()) == pytest.approx(half(s, t) + half(t[:12], s), rel=1e-5)


def test_crd_starts_where_its_maps_agree_and_stretches_nothing():
    given, objective = batch(40), build("crd")
    # A student that is its teacher in five dimensions, turned.
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)
    teacher = np.concatenate([given.student.detach().numpy(), np.zeros((40, 3), np.float32)], axis=1)
    student = given.student.detach().numpy() @ turn.T
    objective.start(student, teacher)
    torch.testing.assert_close(objective.of_student(torch.tensor(student)), objective.of_teacher(torch.tensor(teacher)))
    weight = objective.of_student.weight.detach()
    torch.testing.assert_close(weight.T @ weight, torch.eye(5), atol=1e-5, rtol=0)


def test_hpd_regresses_on_the_teachers_principal_components():
    given, objective = batch(40), build("hpd")
    objective.projection.hold(principal_directions(given.teacher.numpy(), 5))
    basis = np.linalg.svd(given.teacher.double().numpy())[2][:5]
    reduced = given.teacher.double().numpy() @ basis.T
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True)
    signs = np.sign((objective.projection.weight.T.numpy() * basis).sum(1))
    expected = ((given.student.detach().numpy() - reduced * signs) ** 2).sum(1).mean()
    assert float(objective(given).total.detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="`dim=8` or less"):
        build("hpd", sizes=Sizes(9, 8))


def test_each_hsic_estimator_is_the_one_named():
    given = batch()
    found = {name: build("ibkd", hsic_estimator=name)(given).terms for name in ("biased", "unbiased", "cka")}
    from ibkd_retrieval.distill.objectives.functional import gaussian_kernel

    k, l = gaussian_kernel(torch.nn.functional.normalize(given.inputs, dim=1)), gaussian_kernel(given.student)  # noqa: E741
    torch.testing.assert_close(found["biased"]["hsic"], hsic(k, l))
    torch.testing.assert_close(found["unbiased"]["hsic"], unbiased_hsic(k, l))
    torch.testing.assert_close(found["cka"]["hsic"], hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nested_is_the_mean_over_prefixes_of_students_that_have_no_more(name):
    given, nested = batch(), build(name, (5, 3))
    if name != "crd":
        nested.projection.hold(principal_directions(given.teacher.numpy(), 5))
    short = torch.nn.functional.normalize(given.student[:, :3], dim=1)
    narrow = build(name, sizes=Sizes(3, 8))
    with torch.no_grad():
        for mine, theirs in zip(narrow.parameters(), nested.parameters(), strict=True):
            mine.copy_(theirs[:, : mine.shape[1]])
    alone = narrow(Batch(short, given.teacher, given.inputs, None, None)).total
    terms = nested(given)
    torch.testing.assert_close(terms.terms["loss@3"], alone)
    torch.testing.assert_close(terms.total, (nested.objective(given).total + alone) / 2)


def test_a_held_w_changes_no_cosine_of_any_prefix():
    given, nested = batch(60), build("infonce", (5, 2))
    nested.projection.hold(principal_directions(given.teacher.numpy(), 5))
    for dim in (5, 2):
        prefix = torch.nn.functional.normalize(given.student[:, :dim], dim=1)
        image = nested.projection(prefix)
        torch.testing.assert_close(image @ image.T, prefix @ prefix.T)


@pytest.mark.parametrize("dims", [(4, 2), (6,)])
def test_dims_that_do_not_start_with_the_students_are_refused(dims):
    with pytest.raises(UserError, match="the student has 5 dimensions"):
        build("ibkd", dims)
    with pytest.raises(UserError, match="at most the teacher's 4"):
        build("ibkd", (5, 2), Sizes(5, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"checkpoint_every": 0},
        {"learning_rate": float("nan")},
        {"warmup": 2.0},
        {"output_space": "outer"},
        {"dtype": "int8"},
        {"accumulate": 0},
        {"patience": -1},
        {"patience": 2, "eval_every": 0},
        {"dims": (16, 32)},
        {"dims": (16, 16)},
        {"dims": (16, 0)},
        {"dims": (16, 8), "output_space": "teacher"},
        {"objective": "crd", "output_space": "teacher"},
        {"batch_size": 3, "hsic_estimator": "unbiased"},
        {"hsic_estimator": "exact"},
        {"temperature": 0},
        {"hsic_weight": -1},
        {"regression_weight": -1},
        {"regression_weight": math.inf},
        {"hsic_bandwidth": "wide"},
    ],
)
def test_settings_out_of_range_are_user_errors(wrong):
    with pytest.raises(UserError):
        chosen(**wrong)


def test_the_paper_preset_has_the_published_settings():
    settings = chosen(preset="paper", seed=7).distilling_record()
    terms = {"temperature": 1.0, "hsic_weight": 0.2, "hsic_bandwidth": 1.0, "hsic_estimator": "biased"}
    assert settings["objective_settings"] == terms | {"regression_weight": 0.0}
    found = [settings[name] for name in ("batch_size", "learning_rate", "max_length", "seed")]
    assert found == [256, 1e-4, 128, 7]
