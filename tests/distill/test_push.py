"""Students on a stand-in for the Hugging Face hub, pushed by the hub's real client."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants

import ibkd_retrieval as ibkd
from helpers import hub as stub
from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.errors import UserError, WorkFailed


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A student whose teacher, corpus and folder are local files."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "secret.txt").write_text("\n".join(sentences(120)))
    save_sentence_transformer(folder / "teacher-of-mine")
    ibkd.distill(
        teacher=str(folder / "teacher-of-mine"),
        corpus=str(folder / "secret.txt"),
        output=str(folder / "mine"),
        layers=1,
        dim=16,
        steps=2,
        batch_size=8,
        bank_size=0,
        max_length=16,
        eval_every=2,
        checkpoint_every=2,
        device="cpu",
        synthetic_queries=10,
    )
    return folder / "mine"


@pytest.fixture
def hub(monkeypatch):
    with stub.served() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # The stand-in has LFS alone.
        monkeypatch.setenv("HF_TOKEN", stub.TOKEN)
        yield served


def test_a_student_is_pushed_whole_and_gives_the_same_vectors(student: Path, hub, tmp_path: Path):
    made = ibkd.push(student, "me/mine", private=True)
    assert (made.repository, made.revision, made.commit) == ("me/mine", "main", "c0ffee")
    repository = hub.repositories["me/mine"]
    assert repository["private"]
    for name, content in repository["main"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    texts = sentences(5)
    np.testing.assert_array_equal(ibkd.Encoder.load(tmp_path).encode(texts), ibkd.Encoder.load(student).encode(texts))


def test_no_text_of_the_corpus_and_no_local_path_leaves_the_machine(student: Path, hub):
    ibkd.push(student, "me/mine")
    files = hub.repositories["me/mine"]["main"]
    assert not [name for name in files if name.endswith(".jsonl") or "checkpoint" in name]
    for name in ("README.md", "ibkd.json"):
        text = files[name].decode()
        assert str(student.parent) not in text
        assert "secret.txt" in text
    record = json.loads(files["ibkd.json"])
    assert record["config"]["teacher"] == ["teacher-of-mine"]
    assert not hub.repositories["me/mine"]["private"]


def test_the_card_is_in_the_form_of_the_hub(student: Path, hub, tmp_path: Path):
    ibkd.push(student, "me/mine", license="apache-2.0", language=["en", "de"], base_model=["some/teacher"])
    card = ModelCard(hub.repositories["me/mine"]["main"]["README.md"].decode())
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en", "de"])
    assert card.data.base_model == ["some/teacher"]
    assert card.data.library_name == "sentence-transformers"
    record = json.loads((student / "ibkd.json").read_text())
    (result,) = card.data.eval_results
    assert (result.metric_type, result.dataset_split) == (record["dev_metric"], "dev")
    assert result.metric_value == pytest.approx(record["student"]["dev"], abs=1e-4)
    assert card.data.metrics == [record["dev_metric"]]
    assert 'SentenceTransformer("me/mine")' in card.text


def test_what_a_person_wrote_into_the_card_is_kept(student: Path, hub):
    path = student / "README.md"
    before = path.read_text()
    path.write_text(before.replace("---\n", "---\nlicense: mit\nlanguage: fr\n", 1))
    try:
        ibkd.push(student, "me/mine")
    finally:
        path.write_text(before)
    card = ModelCard(hub.repositories["me/mine"]["main"]["README.md"].decode())
    assert (card.data.license, card.data.language) == ("mit", "fr")


def test_a_branch_is_made_for_a_revision_and_main_is_left_alone(student: Path, hub):
    ibkd.push(student, "me/mine", license="mit")
    ibkd.push(student, "me/mine", revision="next", license="apache-2.0")
    repository = hub.repositories["me/mine"]
    assert b"license: mit" in repository["main"]["README.md"]
    assert b"license: apache-2.0" in repository["next"]["README.md"]


def test_a_public_repository_is_refused_for_a_private_model(student: Path, hub):
    hub.repositories["me/mine"] = {"private": False, "main": {}}
    with pytest.raises(UserError, match="public"):
        ibkd.push(student, "me/mine", private=True)
    assert hub.repositories["me/mine"]["main"] == {}


def test_a_wrong_token_is_a_sentence_without_the_token(student: Path, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="hf auth login") as refused:
        ibkd.push(student, "me/mine")
    assert "hf_wrong" not in str(refused.value)
    assert hub.repositories == {}


def test_a_hub_that_fails_or_is_not_there_is_a_failure_of_the_work(student: Path, hub, monkeypatch):
    hub.fail_at = "/commit/"
    with pytest.raises(WorkFailed, match="500"):
        ibkd.push(student, "me/mine")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(WorkFailed, match="cannot be reached"):
        ibkd.push(student, "me/mine")


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/../x", "/mine", "me/"])
def test_a_name_that_the_hub_has_not_is_refused(student: Path, name: str):
    with pytest.raises(UserError, match="USER/NAME"):
        ibkd.push(student, name)


def test_what_is_no_student_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no finished student"):
        ibkd.push(tmp_path, "me/mine")


@pytest.mark.parametrize("place", ["/{}", "../{}"])
def test_a_record_that_names_files_elsewhere_is_refused(student: Path, hub, place: str):
    path, secret = student / "ibkd.json", student.parent / "secret.txt"
    before = path.read_text()
    named = place.format(secret.name if place.startswith("..") else str(secret).lstrip("/"))
    record = json.loads(before)
    record["files"][named] = {"bytes": 1, "sha256": ""}
    path.write_text(json.dumps(record))
    try:
        with pytest.raises(UserError, match="is missing"):
            ibkd.push(student, "me/mine")
    finally:
        path.write_text(before)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"teacher": ["all-mpnet-base-v2"], "student": {"model": None}}, ["sentence-transformers/all-mpnet-base-v2"]),
        ({"teacher": ["BAAI/bge-m3", "models/x"], "student": {"model": "intfloat/e5"}}, ["intfloat/e5", "BAAI/bge-m3"]),
        ({"teacher": ["http://host/v1#model", os.getcwd(), "mpnet"], "student": {"model": None}}, []),
    ],
)
def test_models_that_the_hub_has_are_the_base_models(config: dict, names: list[str]):
    from ibkd_retrieval.distill.output.publishing import _base_models

    assert list(_base_models({"config": config, "teacher": {"name": "x"}})) == names
