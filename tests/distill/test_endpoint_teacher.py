"""A teacher behind an endpoint."""

import json

import numpy as np
import pytest

from helpers.endpoint import endpoint
from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.distill.api import distill
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.api import build_index
from ibkd_retrieval.search.api import open_index

pytest.importorskip("openai")

TEXTS = sentences(150)
TINY = {
    "steps": 4,
    "batch_size": 16,
    "bank_size": 24,
    "max_length": 24,
    "dtype": "float32",
    "eval_every": 2,
    "output_space": "teacher",
    "price": 0.02,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "student", seed=7)


def test_a_student_of_an_endpoint_searches_the_endpoints_index_and_no_text_is_paid_for_twice(student, tmp_path):
    corpus = [{"_id": f"d{place}", "text": text} for place, text in enumerate(TEXTS)]
    with endpoint() as served:
        asked = {"teacher": served.url, "student": str(student), "corpus": corpus, "output": tmp_path / "made", **TINY}
        with pytest.raises(UserError, match=r"About 150 texts with .* tokens, about .*: give `yes` to agree"):
            distill(**asked)
        assert not served.requests
        served.faults = [None] * 5 + ["model"]
        with pytest.raises(UserError, match="has changed its model"):
            distill(yes=True, **asked)
        served.faults = [500] * 40
        with pytest.raises((UserError, WorkFailed)):
            distill(yes=True, resume=True, **asked)
        served.faults = []
        made = distill(yes=True, resume=True, **asked)
        assert made.record["teacher"]["name"] == served.url
        assert made.figures["teacher_dim"] == made.figures["dim"] == 32
        came = [text for text in served.texts if text in set(TEXTS)]
        # The request of the model that was refused is the only one whose texts came again.
        assert len(came) - len(set(came)) < 40
        build_index(corpus, served.url, tmp_path / "index", type="flat", yes=True)
        assert len([text for text in served.texts if text in set(TEXTS)]) == len(came)
        index = open_index(tmp_path / "index", query_model=str(made))
        assert len(index.search(TEXTS[0], k=3)) == 3
        other = open_index(tmp_path / "index")
        assert other.search(TEXTS[5], k=1)[0].doc_id == "d5"
    with endpoint(model="b") as changed:
        with pytest.raises(UserError, match="which was not used here before: name it with `model`"):
            _index_at(tmp_path / "index", changed.url).search(TEXTS[5])
        with pytest.raises(UserError, match="their vectors do not compare"):
            open_index(tmp_path / "index", model=changed.url).search(TEXTS[5])


def _index_at(folder, url):
    """The index, with another address in its record."""
    path = folder / "index.json"
    record = json.loads(path.read_text())
    record["encoder"]["name"] = url
    path.write_text(json.dumps(record))
    return open_index(folder)


def test_what_is_made_of_the_teachers_model_needs_another_teacher():
    for parts in ({}, {"layers": 2}, {"student": "static"}):
        with pytest.raises(UserError, match="an endpoint gives its vectors alone: name a small model with `student`"):
            distill(teacher="http://127.0.0.1:9/v1#tiny", corpus=TEXTS, **parts)


def test_the_text_of_the_dev_set_and_of_the_second_stage_is_paid_for_too(student, tmp_path):
    pages = tmp_path / "dev"
    (pages / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"p{place}", "text": f"page {text}"}) for place, text in enumerate(TEXTS[:30])]
    (pages / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": f"q{place}", "text": f"ask {text}"}) for place, text in enumerate(TEXTS[:10])]
    (pages / "queries.jsonl").write_text("\n".join(lines))
    judged = "".join(f"q{place}\tp{place}\t1\n" for place in range(10))
    (pages / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    with endpoint() as served:
        asked = {"teacher": served.url, "student": str(student), "corpus": TEXTS, "output": tmp_path / "made", **TINY}
        with pytest.raises(UserError, match="About 190 texts with"):
            distill(**asked, dev=str(pages))
        with pytest.raises(UserError, match="About 190 texts with"):
            distill(**asked | {"output_space": "student"}, stage="both", pairs=str(pages))
        assert not served.requests
        distill(yes=True, **asked, dev=str(pages))
        assert len({text for text in served.texts if text.startswith(("page ", "ask "))} - set(TEXTS)) == 40


def test_an_endpoint_teaches_beside_a_model(student, bert, tmp_path):
    with endpoint(dim=8) as served:
        made = distill(
            teacher=[served.url, str(bert)],
            student=str(student),
            corpus=TEXTS,
            output=tmp_path / "made",
            yes=True,
            **TINY | {"output_space": "student"},
        )
    assert made.figures["teacher_dim"] == 40
    assert np.isfinite(made.figures["dev"])
