"""A static student trains with the same objectives, and is saved as one table."""

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from helpers.tiny_models import sentences, tokenizer
from helpers.tiny_runs import corpus, finetuning, run, settings
from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.distill.data.batches import training_tokens
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.objectives.projection import least_squares
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.distill.student import finished_model
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.distill.training.table_fit import ridge_solution
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(40, seed=6)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "table"
    words = tokenizer()
    model = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=12), Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def test_training_sees_the_vectors_that_encoding_gives(table, teacher, tmp_path):
    student = load_sentence_transformer(str(table))
    texts = TrainingTexts(tuple(TEXTS[:30]), tuple(TEXTS[30:]))
    run = TrainingRun(student, TeacherCache(tmp_path / "c", teacher), texts, settings(max_length=64), SILENT)
    found = run._student_vectors(np.arange(40))
    run.close()
    np.testing.assert_allclose(found, Encoder(student, "s").encode(TEXTS), atol=1e-6)


def test_a_text_that_is_none_is_named(table):
    student = load_sentence_transformer(str(table))
    texts = TrainingTexts(("fine", "broken \ud800"), ())
    with pytest.raises(UserError, match="Text number 1 holds a lone surrogate"):
        training_tokens(student, texts, 24)


def test_tokens_are_cut_to_the_length_trained_at(table):
    student = load_sentence_transformer(str(table))
    assert training_tokens(student, TrainingTexts(("river bank water cup dish", "river"), ()), 3).lengths.tolist() == [
        3,
        1,
    ]


def test_a_table_starts_as_the_least_squares_fit_of_the_teachers_vectors(table, teacher, tmp_path):
    student = load_sentence_transformer(str(table))
    texts = TrainingTexts(("", *TEXTS), ())
    run = TrainingRun(student, TeacherCache(tmp_path / "c", teacher), texts, settings(max_length=3), SILENT)
    before = _agreement(run)
    run.start()
    run.close()
    # Whole texts are read, as wherever the student encodes.
    assert max(run.token_ids.lengths) > 3
    assert before < 0.95 < 0.99 < _agreement(run)


def _agreement(run):
    """The mean cosine of the teacher's vectors and the best linear image of the student's."""
    student, teacher = run._student_vectors(np.arange(1, 41)), run.cache.vectors(run.rows[1:])
    image = student @ least_squares(student, teacher).T
    return float((image * teacher).sum(1).mean() / np.linalg.norm(image, axis=1).mean())


def test_the_fit_is_that_of_the_normal_equations():
    dense = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    wanted = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    ridge = 0.1 * np.square(dense).sum() / 9
    exact = np.linalg.solve(dense.T @ dense + ridge * np.eye(6), dense.T @ wanted)
    np.testing.assert_allclose(ridge_solution(csr_matrix(dense), wanted), exact, atol=1e-2)


def test_what_training_taught_is_saved_in_the_table_itself(table):
    student = load_sentence_transformer(str(table))
    w = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    before = student.encode(TEXTS).astype(np.float64)
    model, _ = finished_model(student, w, settings())
    after = model.encode(TEXTS).astype(np.float64)
    assert len(model) == 2
    projected = before @ w.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(after @ after.T, projected @ projected.T, atol=1e-5)


@pytest.mark.parametrize("objective", ["ibkd", "hpd"])
def test_a_static_model_can_be_the_student(bert, table, tmp_path, objective):
    changed = settings(objective=objective, steps=60, learning_rate=1e-2)
    report = run(bert, tmp_path, plan=StudentConfig(str(table)), settings=changed)
    assert report.student.transformer_parameters == 0
    assert report.student.dev > report.undistilled_dev
    names = [m["type"].split(".")[-1] for m in json.loads((tmp_path / "student" / "modules.json").read_text())]
    assert names == ["StaticEmbedding", "Normalize"]


class Told:
    """A progress that keeps what it was told."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    task = staticmethod(SILENT.task)


def test_a_static_student_is_not_asked_to_forget_itself(bert, table, tmp_path):
    # Its input representation is its output: the term could only pay it for losing structure.
    texts, told = sentences(60), Told()
    options = {
        "stage": "both",
        "pairs": PairSet("p", tuple(TrainingPair(" ".join(text.split()[:3]), (text,)) for text in texts)),
        "finetuning": finetuning(negatives=0),
    }
    report = run(bert, tmp_path, plan=StudentConfig(str(table)), progress=told, **options)
    logs = [tmp_path / "student" / name for name in ("training-log.jsonl", "finetuning-log.jsonl")]
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert any("keep" in line for line in lines)
    assert any("contrast" in line for line in lines)
    assert not any("hsic" in name for line in lines for name in line)
    assert report.settings["objective_settings"]["hsic_weight"] == report.finetuning.settings["hsic_weight"] == 0
    assert len([said for said in told.said if "without the forgetting term" in said]) == 1


def test_a_frozen_static_student_is_refused(bert, table, tmp_path):
    with pytest.raises(UserError, match="`freeze_embeddings` leaves nothing"):
        run(bert, tmp_path, plan=StudentConfig(str(table)), settings=settings(freeze_embeddings=True))


def test_a_static_student_is_made_of_the_teachers_token_outputs(bert, tmp_path, caplog):
    pytest.importorskip("model2vec")
    report = run(bert, tmp_path, plan=StudentConfig("static", dim=16), settings=settings(learning_rate=1e-2))
    assert (report.student.dim, report.student.transformer_parameters) == (16, 0)
    assert StudentConfig("static", dim=16).name("a/b", "ibkd") == "b-static-d16-ibkd"
    # sentence-transformers warns of arguments that this version of model2vec lacks, which nobody here has set.
    assert not [record for record in caplog.records if record.name.startswith("sentence_transformers")]


def test_a_missing_package_is_named_with_its_extra(bert, tmp_path, monkeypatch):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "model2vec" else find(name))
    with pytest.raises(MissingPackage, match=r"ibkd-retrieval\[static\]"):
        run(bert, tmp_path, plan=StudentConfig("static"))
    with pytest.raises(UserError, match="leave `layers` out"):
        run(bert, tmp_path, plan=StudentConfig("static", layers=2))


def test_a_static_model_can_be_the_teacher(bert, table, tmp_path):
    report = run(table, tmp_path, plan=StudentConfig(str(bert)))
    assert (report.teacher.dim, report.student.dim) == (12, 32)
    assert report.student.dev > 0


def test_the_token_table_can_be_cut_to_the_corpus(bert, table, tmp_path):
    pytest.importorskip("skeletoken")
    documents = [document for document in corpus().documents() if "egg" not in document.text]
    part = Corpus("part", len(documents), lambda: documents)
    plan = StudentConfig(str(table), vocabulary="corpus")
    run(bert, tmp_path, plan=plan, settings=settings(steps=4), corpus=part)
    student, whole = (load_sentence_transformer(str(folder)) for folder in (tmp_path / "student", table))
    words = set(student.tokenizer.get_vocab())
    assert set(whole.tokenizer.get_vocab()) - words == {"egg"}
    assert len(student[0].embedding.weight) == len(words)
