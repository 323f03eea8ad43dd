import json

import numpy as np
import pytest

from helpers.tiny_models import save_sentence_transformer, sentences
from helpers.tiny_runs import run, settings
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.teacher.joint import JointCache, JointTeacher
from ibkd_retrieval.encoders.encoder import Encoder

TEXTS = sentences(30, seed=3)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "other", "mpnet", seed=5, hidden=16, layers=2)


def load(path):
    return Encoder.load(str(path), device="cpu", dtype="float32")


def test_an_inner_product_is_the_mean_of_the_teachers_cosines(bert, other):
    first, second = load(bert), load(other)
    joint = JointTeacher([first, second])
    vectors = joint.encode(TEXTS)
    assert vectors.shape == (30, joint.dim) == (30, 48)
    a, b = first.encode(TEXTS), second.encode(TEXTS)
    np.testing.assert_allclose(vectors @ vectors.T, (a @ a.T + b @ b.T) / 2, atol=1e-5)
    assert len({joint.weight_hash, first.weight_hash, JointTeacher([second, first]).weight_hash}) == 3


def test_caches_read_as_one_give_the_joint_vectors_and_tell_equal_texts(prompted, other, tmp_path):
    encoders = [load(other), load(prompted)]
    caches = [TeacherCache(tmp_path / str(i), encoder) for i, encoder in enumerate(encoders)]
    joint = JointCache(caches, JointTeacher(encoders))
    documents, queries = joint.rows([*TEXTS, TEXTS[4]]), joint.rows(TEXTS[:6], "query")
    assert documents[-1] == documents[4]
    assert len(set(documents)) == 30
    # The first teacher has no prompts, so it alone would take a query for the document of the same text.
    assert not set(documents) & set(queries)
    np.testing.assert_allclose(joint.vectors(documents[:30]), joint.teacher.encode(TEXTS), atol=1e-3)
    np.testing.assert_allclose(joint.vectors(queries), joint.teacher.encode(TEXTS[:6], "query"), atol=1e-3)
    np.testing.assert_array_equal(joint.rows(TEXTS), documents[:30])


def test_a_student_learns_from_two_teachers_and_each_keeps_a_cache_of_its_own(bert, other, tmp_path):
    report = run(bert, tmp_path, further_teachers=[str(other)], settings=settings(steps=4))
    assert report.teacher.dim == 48
    assert len(list((tmp_path / "cache").iterdir())) == 2
    facts = json.loads((tmp_path / "student" / "ibkd.json").read_text())
    assert facts["teacher"]["name"] == f"{bert} + {other}"
