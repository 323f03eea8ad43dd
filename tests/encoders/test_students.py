import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_models import sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import (
    evenly_spaced_layers,
    keep_leading_dimensions,
    principal_directions,
    reduce_dimension,
    student_from_layers,
)
from ibkd_retrieval.errors import UserError

TEXTS = sentences(60, seed=3)


def layers_of(model):
    return next(
        module
        for module in model[0].auto_model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == model[0].auto_model.config.num_hidden_layers
    )


@given(st.integers(1, 48).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))))
def test_evenly_spaced_layers_are_different_in_order_and_end_with_the_last(case):
    total, keep = case
    found = evenly_spaced_layers(total, keep)
    assert len(set(found)) == keep
    assert found == sorted(found)
    assert found[-1] == total - 1
    assert found[0] == (0 if keep > 1 else total - 1)


@pytest.mark.parametrize("keep", [0, 5])
def test_a_number_of_layers_the_teacher_has_not_is_refused(keep):
    with pytest.raises(UserError, match="from 1 to 4"):
        evenly_spaced_layers(4, keep)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
@pytest.mark.parametrize(("asked", "kept"), [(2, [0, 3]), (1, [3]), ((1, 2), [1, 2])])
def test_a_student_has_exactly_the_layers_asked_for(request, kind, asked, kept):
    teacher = load_sentence_transformer(str(request.getfixturevalue(kind)))
    student = student_from_layers(teacher, asked)
    assert student[0].auto_model.config.num_hidden_layers == len(kept)
    for got, position in zip(layers_of(student), kept, strict=True):
        for mine, theirs in zip(got.parameters(), layers_of(teacher)[position].parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine is not theirs
    assert len(layers_of(teacher)) == 4


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_a_student_with_all_layers_is_its_teacher(request, kind):
    teacher = load_sentence_transformer(str(request.getfixturevalue(kind)))
    student = student_from_layers(teacher, 4)
    np.testing.assert_array_equal(teacher.encode(TEXTS), student.encode(TEXTS))


def test_a_saved_student_loads_with_its_own_number_of_layers(bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    student = student_from_layers(load_sentence_transformer(str(bert)), 2)
    student.save(str(tmp_path / "s"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "s"), device="cpu")
    np.testing.assert_allclose(student.encode(TEXTS), again.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("positions", [(0, 4), (-1,), (), (1, 1)])
def test_positions_that_are_not_there_or_named_twice_are_refused(bert, positions):
    with pytest.raises(UserError):
        student_from_layers(load_sentence_transformer(str(bert)), positions)


def test_principal_directions_are_those_of_the_singular_value_decomposition():
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) * np.arange(1, 9)
    found = principal_directions(rows.astype(np.float32), 3)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
    expected = np.linalg.svd(rows.astype(np.float64))[2][:3]
    np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-4)


def test_a_reduced_model_keeps_what_the_principal_directions_keep_and_reloads_without_this_toolkit(bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = load_sentence_transformer(str(bert))
    full = model.encode(TEXTS)
    reduce_dimension(model, full, 12)
    reduced = model.encode(TEXTS)
    expected = full @ principal_directions(full, 12).T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(reduced @ reduced.T, expected @ expected.T, atol=1e-4)
    assert np.abs(reduced @ reduced.T - full @ full.T).max() < 0.15
    model.save(str(tmp_path / "s"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "s"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), reduced, atol=1e-6)
    assert Encoder.load(str(tmp_path / "s"), device="cpu", dtype="float32").dim == 12


@pytest.mark.parametrize(("dim", "texts"), [(32, 60), (0, 60), (31, 10)])
def test_a_dimension_that_cannot_be_reached_is_refused(bert, dim, texts):
    model = load_sentence_transformer(str(bert))
    with pytest.raises(UserError, match="`dim"):
        reduce_dimension(model, model.encode(TEXTS[:texts]), dim)


@pytest.mark.parametrize("dim", [1, 12, 32])
def test_cut_vectors_are_the_leading_numbers_made_unit_and_have_a_hash_of_their_own(bert, dim):
    whole, cut = (Encoder.load(str(bert), device="cpu", dtype="float32", dim=each) for each in (None, dim))
    leading = whole.encode(TEXTS)[:, :dim]
    np.testing.assert_allclose(cut.encode(TEXTS), leading / np.linalg.norm(leading, axis=1, keepdims=True), atol=1e-6)
    assert cut.dim == dim
    assert (cut.weight_hash == whole.weight_hash) == (dim == 32)


@pytest.mark.parametrize("dim", [0, 33])
def test_more_dimensions_than_there_are_cannot_be_kept(bert, dim):
    with pytest.raises(UserError, match="from 1 to 32"):
        keep_leading_dimensions(load_sentence_transformer(str(bert)), dim)
