"""The saved student's own space keeps the geometry that training compared."""

import numpy as np
import pytest

from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.student import finished_model
from ibkd_retrieval.encoders.students import reduce_dimension
from ibkd_retrieval.errors import UserError

TEXTS = ["one two three", "four five", "six seven eight nine", "ten one five", "two two nine", "three six"]


@pytest.fixture
def student(bert):
    from ibkd_retrieval.encoders.loading import load_sentence_transformer

    return load_sentence_transformer(str(bert))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def encode(model):
    return model.encode(TEXTS, convert_to_numpy=True, show_progress_bar=False).astype(np.float64)


@pytest.mark.parametrize("teacher_dim", [8, 16, 48])
@pytest.mark.parametrize("reduced", [False, True])
def test_cosines_in_the_students_own_space_are_those_of_w_s(student, reduced, teacher_dim):
    if reduced:
        sample = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
        reduce_dimension(student, sample, 16)
    before = encode(student)
    w = np.random.default_rng(1).normal(size=(teacher_dim, before.shape[1])).astype(np.float32)
    modules = len(student)
    model, to_teacher = finished_model(student, w, DistillConfig())
    after = encode(model)
    assert after.shape == before.shape
    assert len(model) == modules + (not reduced)
    projected = unit(before @ w.T)
    np.testing.assert_allclose(after @ after.T, projected @ projected.T, atol=1e-5)
    np.testing.assert_allclose(unit(after @ to_teacher.T.astype(np.float64)), projected, atol=1e-5)
    np.testing.assert_array_equal(encode(student), before)


def test_in_the_teachers_space_the_student_gives_w_s(student):
    before = encode(student)
    w = np.random.default_rng(1).normal(size=(48, before.shape[1])).astype(np.float32)
    model, to_teacher = finished_model(student, w, DistillConfig().with_parameters(output_space="teacher"))
    np.testing.assert_allclose(encode(model), unit(before @ w.T), atol=1e-5)
    assert to_teacher is None


def test_without_w_the_students_space_is_left_as_it_is(student):
    model, to_teacher = finished_model(student, None, DistillConfig())
    np.testing.assert_array_equal(encode(model), encode(student))
    assert to_teacher is None
    with pytest.raises(UserError, match="no projection"):
        finished_model(student, None, DistillConfig().with_parameters(output_space="teacher"))
