"""Prompts of the teacher and of the student, apart."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import ibkd_retrieval as ibkd
from helpers.tiny_models import save_plain_transformer, save_sentence_transformer, sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(4)
SHORT = {"steps": 2, "batch_size": 16, "bank_size": 16, "max_length": 24, "eval_every": 2, "dtype": "float32"}


def distil(tmp_path, teacher, **options):
    corpus = [{"_id": str(i), "text": text} for i, text in enumerate(sentences(110))]
    settings = {**SHORT, "output": tmp_path / "s", "cache": tmp_path / "cache", "device": "cpu", **options}
    return ibkd.distill(teacher=str(teacher), corpus=corpus, **settings)


def load(folder, **options):
    return Encoder.load(folder, device="cpu", dtype="float32", **options)


def test_the_teachers_prompts_are_part_of_its_identity_and_pass_to_its_layers(tmp_path, bert):
    given = {"teacher_query_prompt": "query: ", "teacher_document_prompt": "page: "}
    student = distil(tmp_path, bert, layers=1, dim=8, **given)
    whole = load(bert, query_prompt="query: ", document_prompt="page: ")
    assert student.record["teacher"]["weight_hash"] == whole.weight_hash != load(bert).weight_hash
    assert load(student.path).prompts == {"query": "query: ", "document": "page: "}
    assert student.record["config"]["teaching"] == {
        "pooling": None,
        "query_prompt": "query: ",
        "document_prompt": "page: ",
        "device_map": None,
    }
    assert student.config.teaching.document_prompt == "page: "


def test_the_students_prompts_are_its_own_and_saved_in_its_folder(tmp_path, bert):
    small = save_sentence_transformer(tmp_path / "small", seed=1)
    student = distil(tmp_path, bert, student=str(small), query_prompt="river: ", teacher_query_prompt="query: ")
    assert json.loads((student.path / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "river: "
    encoder = load(student.path)
    expected = SentenceTransformer(str(student.path), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), expected, atol=1e-5)
    assert np.abs(encoder.encode(TEXTS, "query") - encoder.encode(TEXTS)).max() > 0.01


def test_the_teachers_pooling_is_its_own(tmp_path):
    teacher = save_plain_transformer(tmp_path / "plain")
    student = distil(tmp_path, teacher, layers=1, dim=8, teacher_pooling="lasttoken")
    assert student.record["teacher"]["weight_hash"] == load(teacher, pooling="lasttoken").weight_hash


@pytest.mark.parametrize("name", ["query_prompt", "teacher_document_prompt"])
@pytest.mark.parametrize(("prompt", "placeholder"), [("Instruct: {task}\nQuery: ", "{task}"), ("title: %s", "%s")])
def test_a_prompt_with_a_placeholder_is_refused_by_its_name(tmp_path, bert, name, prompt, placeholder):
    with pytest.raises(UserError, match=rf"`{name}` .* has the placeholder {placeholder}, which nothing fills in"):
        distil(tmp_path, bert, layers=1, dim=8, **{name: prompt})
    if not name.startswith("teacher"):
        with pytest.raises(UserError, match=rf"`{name}` .* has the placeholder"):
            load(bert, **{name: prompt})


def test_prompts_for_several_teachers_at_once_are_refused(tmp_path, bert):
    with pytest.raises(UserError, match="`teacher_query_prompt` can be for one model only: name one `teacher`"):
        ibkd.distill(teacher=[str(bert), "other"], teacher_query_prompt="a: ", output=tmp_path / "s")


def test_a_teacher_and_a_student_without_the_prompts_of_their_families_are_spoken_of(tmp_path):
    teacher = save_sentence_transformer(tmp_path / "Qwen3-Embedding-0.6B")
    small = save_sentence_transformer(tmp_path / "e5-small", seed=1)
    said = []
    progress = SimpleNamespace(say=said.append, task=SILENT.task)
    distil(tmp_path, teacher, student=str(small), progress=progress)
    of_teacher, of_student = (
        next(each for each in said if name in each) for name in ("0.6B registers", "e5-small registers")
    )
    assert '`teacher_query_prompt` "Instruct: Given a web search query' in of_teacher
    assert '`query_prompt` "query: " and `document_prompt` "passage: "' in of_student
