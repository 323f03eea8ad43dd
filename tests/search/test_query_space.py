import json
from types import SimpleNamespace

import pytest

from helpers.searching import HashEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.query_space import check_query_model

TEACHER = "a" * 64
MANIFEST = SimpleNamespace(encoder=SimpleNamespace(name="teacher", weight_hash=TEACHER), dim=8)
STUDENT = HashEncoder("b" * 64)


def student(folder, **changes):
    record = {"teacher": {"name": "teacher", "weight_hash": TEACHER}, "settings": {"output_space": "teacher"}}
    (folder / "ibkd.json").write_text(json.dumps(record | changes))
    return folder


def test_a_student_in_its_teachers_space_may_search_the_teachers_index(tmp_path):
    check_query_model(student(tmp_path), STUDENT, MANIFEST)


def test_the_encoder_of_the_index_may_always(tmp_path):
    check_query_model(tmp_path / "anywhere", HashEncoder(TEACHER), MANIFEST)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": {"output_space": "student"}}, "are in a space of its own .8 dimensions, output space student"),
        ({"settings": None}, "are in a space of its own"),
        ({"teacher": {"name": "other", "weight_hash": "c" * 64}}, "into the space of other .weights c{12}.* teacher"),
        ({"teacher": "teacher"}, "distilled into the space of None"),
    ],
)
def test_a_student_of_another_space_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check_query_model(student(tmp_path, **changes), STUDENT, MANIFEST)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_model_that_does_not_say_what_it_learned_from_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "ibkd.json").write_text(content)
    with pytest.raises(UserError, match=r"has no ibkd\.json that says what it was distilled from"):
        check_query_model(tmp_path, STUDENT, MANIFEST)


def test_a_student_of_other_dimensions_is_refused(tmp_path):
    with pytest.raises(UserError, match="makes vectors of 4 dimensions and the index holds 8"):
        check_query_model(student(tmp_path), HashEncoder("b" * 64, dim=4), MANIFEST)
