import pytest
import torch

from ibkd_retrieval.distill.objectives.base import Batch, ObjectiveSettings
from ibkd_retrieval.distill.objectives.table import OBJECTIVES, build_objective
from ibkd_retrieval.distill.settings import DistillSettings, paper_preset
from ibkd_retrieval.errors import UserError


def batch(n=12, d=5, teacher=8):
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    student = unit(torch.randn(n, d), dim=-1).requires_grad_(True)
    return Batch(student, unit(torch.randn(n, teacher), dim=-1), torch.randn(n, 7), None, None)


def test_an_unknown_objective_names_the_known_ones():
    with pytest.raises(UserError, match="ibkd, infonce, mse"):
        build_objective("magic", 5, 8, ObjectiveSettings())
    with pytest.raises(UserError, match="ibkd, infonce, mse"):
        DistillSettings(objective="magic")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_pulls_on_the_student_and_on_its_projection(name):
    given = batch()
    objective = build_objective(name, 5, 8, ObjectiveSettings())
    objective(given).total.backward()
    assert given.student.grad.norm() > 0
    assert objective.projection.weight.shape == (8, 5)
    assert objective.projection.weight.grad.norm() > 0


def test_ibkd_without_weight_on_forgetting_is_infonce():
    given, settings = batch(), ObjectiveSettings(hsic_weight=0.0)
    ibkd, infonce = (build_objective(name, 5, 8, settings) for name in ("ibkd", "infonce"))
    with torch.no_grad():
        infonce.projection.weight.copy_(ibkd.projection.weight)
    torch.testing.assert_close(ibkd(given).total, infonce(given).total, rtol=0, atol=0)


def test_the_watched_gradient_leaves_the_graph_of_the_loss_whole():
    given = batch()
    terms = build_objective("ibkd", 5, 8, ObjectiveSettings())(given)
    (gradient,) = torch.autograd.grad(terms.watch["hsic"], given.student, retain_graph=True)
    assert gradient.norm() > 0
    terms.total.backward()
    assert torch.isfinite(given.student.grad).all()


def test_mse_of_unit_vectors_is_two_minus_two_cosines():
    given = batch()
    objective = build_objective("mse", 5, 8, ObjectiveSettings())
    cosine = (objective.projection(given.student) * given.teacher).sum(1)
    torch.testing.assert_close(objective(given).total, (2 - 2 * cosine).mean())


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
        {"objective_settings": ObjectiveSettings(temperature=0)},
        {"objective_settings": ObjectiveSettings(hsic_weight=-1)},
        {"objective_settings": ObjectiveSettings(hsic_bandwidth="wide")},
    ],
)
def test_settings_out_of_range_are_user_errors(wrong):
    with pytest.raises(UserError):
        DistillSettings(**wrong)


def test_the_paper_preset_has_the_published_settings():
    settings = paper_preset(DistillSettings(seed=7))
    assert settings.objective_settings == ObjectiveSettings(1.0, 0.2, 1.0)
    assert (settings.batch_size, settings.learning_rate, settings.max_length, settings.seed) == (256, 1e-4, 128, 7)
