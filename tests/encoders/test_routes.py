"""Folders with a router: one route for queries and one for documents."""

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)

import ibkd_retrieval as ibkd
from helpers.tiny_models import save_plain_transformer, sentences, tokenizer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.exporting import export_model
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import student_from_layers
from ibkd_retrieval.errors import UserError

TEXTS = [*sentences(6), "", "word " * 80]
PROMPTS = {"query": "query: ", "document": "page: "}


def modules(folder, seed, layers=2):
    first = Transformer(str(save_plain_transformer(folder, seed=seed, layers=layers)))
    return [first, Pooling(32)]


def router(tmp_path, queries=None, **options):
    torch.manual_seed(0)
    queries = queries or modules(tmp_path / "q", 1, layers=1)
    routes = Router.for_query_document(queries, modules(tmp_path / "d", 2), **options)
    model = SentenceTransformer(modules=[routes, Normalize()], device="cpu", prompts=PROMPTS)
    model.save(str(tmp_path / "m"), create_model_card=False)
    return tmp_path / "m"


def static():
    return [StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=32)]


def load(folder, **options):
    return Encoder.load(folder, device="cpu", **({"dtype": "float32"} | options))


@pytest.mark.parametrize("queries", [None, static])
def test_each_kind_of_text_takes_its_route(tmp_path, queries):
    folder = router(tmp_path, queries and queries())
    encoder, reference = load(folder), SentenceTransformer(str(folder), device="cpu")
    for kind in ("query", "document"):
        expected = getattr(reference, f"encode_{kind}")(TEXTS)
        np.testing.assert_allclose(encoder.encode(TEXTS, kind), expected, atol=1e-5)
        np.testing.assert_array_equal(
            encoder.encode_prepared(encoder.prepare(TEXTS, kind)), encoder.encode(TEXTS, kind)
        )
        assert encoder.token_counts(["a"], kind)[0] > 0
    assert encoder.parameters.total > load(tmp_path / "d").parameters.total


def test_the_identity_of_a_model_covers_both_routes(tmp_path):
    one = load(router(tmp_path / "a", modules(tmp_path / "q1", 1)))
    other = load(router(tmp_path / "b", modules(tmp_path / "q2", 3)))
    again = load(tmp_path / "a" / "m")
    assert len({one.weight_hash, other.weight_hash}) == 2
    assert one.weight_hash == again.weight_hash != load(tmp_path / "a" / "m", query_prompt="river: ").weight_hash


def test_prompts_and_a_cut_are_for_both_routes(tmp_path):
    encoder = load(router(tmp_path), query_prompt="", document_prompt="", dim=8)
    plain = [load(tmp_path / each, dim=8) for each in ("q", "d")]
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), plain[0].encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS), plain[1].encode(TEXTS), atol=1e-5)


def test_an_index_is_made_by_one_route_and_searched_by_the_other(tmp_path):
    folder = router(tmp_path)
    index = ibkd.build_index(sentences(20), str(folder), tmp_path / "i", type="flat", device="cpu", dtype="float32")
    reference = SentenceTransformer(str(folder), device="cpu")
    expected = reference.encode_query(["river bank"]) @ reference.encode_document(sentences(20)).T
    hits = ibkd.open_index(index, device="cpu", dtype="float32").search("river bank", 3)
    assert hits[0].score == pytest.approx(float(expected.max()), abs=1e-5)


def test_a_router_teaches_and_a_student_of_its_layers_has_one_route(tmp_path):
    folder = router(tmp_path)
    student = student_from_layers(load_sentence_transformer(str(folder)), 1)
    assert "query_route" not in vars(student) or not vars(student)["query_route"]
    corpus = [{"_id": str(i), "text": text} for i, text in enumerate(sentences(110))]
    settings = {"steps": 2, "batch_size": 16, "bank_size": 16, "max_length": 8, "eval_every": 2, "dtype": "float32"}
    made = ibkd.distill(
        teacher=str(folder), corpus=corpus, layers=1, dim=8, output=tmp_path / "s", cache=tmp_path / "c", **settings
    )
    assert made.record["teacher"]["weight_hash"] == load(folder).weight_hash


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A teacher with prompts and a pooling that are given, and a student in its space."""
    folder = tmp_path_factory.mktemp("pair")
    teacher = save_plain_transformer(folder / "teacher")
    given = {"teacher_pooling": "cls", "teacher_document_prompt": "page: ", "query_prompt": "query: "}
    settings = {"steps": 2, "batch_size": 16, "bank_size": 16, "max_length": 8, "eval_every": 2, "dtype": "float32"}
    corpus = [{"_id": str(i), "text": text} for i, text in enumerate(sentences(110))]
    made = ibkd.distill(
        teacher=str(teacher),
        corpus=corpus,
        layers=1,
        dim=16,
        output_space="teacher",
        output=folder / "student",
        cache=folder / "cache",
        device="cpu",
        **settings,
        **given,
    )
    return teacher, made.path


def test_a_student_and_its_teacher_are_one_folder_for_sentence_transformers(pair, tmp_path):
    teacher, student = pair
    assert ibkd.export(student, "router", tmp_path / "both") == tmp_path / "both"
    read = SentenceTransformer(str(tmp_path / "both"), device="cpu")
    whole = load(teacher, pooling="cls", document_prompt="page: ")
    np.testing.assert_allclose(read.encode_query(TEXTS), load(student).encode(TEXTS, "query"), atol=1e-5)
    np.testing.assert_allclose(read.encode_document(TEXTS), whole.encode(TEXTS), atol=1e-5)
    encoder = load(tmp_path / "both")
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), load(student).encode(TEXTS, "query"), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS), whole.encode(TEXTS), atol=1e-5)


def test_a_teacher_that_was_moved_is_named_and_another_model_is_refused(pair, tmp_path):
    teacher, student = pair
    moved = tmp_path / "moved"
    shutil.copytree(teacher, moved)
    assert ibkd.export(student, "router", tmp_path / "both", teacher=moved).is_dir()
    other = save_plain_transformer(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="other is another model"):
        ibkd.export(student, "router", tmp_path / "wrong", teacher=other)
    assert not (tmp_path / "wrong").exists()


def test_a_student_in_a_space_of_its_own_makes_no_router(pair, tmp_path):
    _, student = pair
    shutil.copytree(student, tmp_path / "s")
    record = json.loads((tmp_path / "s" / "ibkd.json").read_text())
    record["settings"]["output_space"] = "student"
    (tmp_path / "s" / "ibkd.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="not in its teacher's space"):
        ibkd.export(tmp_path / "s", "router", tmp_path / "both")
    with pytest.raises(UserError, match="is no student"):
        ibkd.export(tmp_path, "router", tmp_path / "both")


def test_a_router_is_neither_trained_nor_one_graph(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    folder = router(tmp_path)
    with pytest.raises(UserError, match="cannot be one graph: it has a router"):
        export_model(folder, tmp_path / "o")
    with pytest.raises(UserError, match="cannot be trained: it has a router"):
        ibkd.distill(teacher=str(tmp_path / "d"), student=str(folder), corpus=sentences(110), output=tmp_path / "s")


def test_routes_that_do_not_compare_are_refused(tmp_path):
    folder = router(tmp_path, [*modules(tmp_path / "q", 1), Dense(32, 16)])
    with pytest.raises(UserError, match="16 dimensions for queries and 32 for documents"):
        load(folder)


def test_a_router_without_a_route_for_queries_is_refused(tmp_path):
    routes = Router({"page": modules(tmp_path / "d", 2)}, allow_empty_key=False)
    SentenceTransformer(modules=[routes, Normalize()], device="cpu").save(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(UserError, match="no route for a query"):
        load(tmp_path / "m")
