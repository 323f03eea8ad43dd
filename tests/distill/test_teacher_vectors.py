"""A teacher of which there are only vectors: files, indexes, and what they refuse."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ibkd_retrieval as ibkd
from helpers.indexing_fakes import Listener
from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.teacher.given_vectors import GivenVectors
from ibkd_retrieval.distill.teacher.vectors import VectorTeacher
from ibkd_retrieval.errors import UserError

TEXTS = sentences(150)
ASKED = list(dict.fromkeys(" ".join(text.split()[:3]) for text in TEXTS[:40]))


def table(path, texts, vectors, prefix="d", **columns):
    column = pa.array([None if each is None else list(map(float, each)) for each in vectors], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"id": [f"{prefix}{i}" for i in range(len(texts))], "text": texts, "vector": column} | columns), path
    )
    return path


def lines(path, texts, prefix="d"):
    path.write_text("".join(json.dumps({"_id": f"{prefix}{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_sentence_transformer(tmp_path_factory.mktemp("models") / "small", seed=3, hidden=16, layers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory, bert):
    """The files of a corpus and of queries, with the vectors that a model gives them."""
    from ibkd_retrieval.encoders.encoder import Encoder

    folder = tmp_path_factory.mktemp("data")
    encoder = Encoder.load(str(bert), device="cpu", dtype="float32")
    documents, queries = encoder.encode(TEXTS), encoder.encode(ASKED, "query")
    table(folder / "docs.parquet", TEXTS, documents)
    table(folder / "q.parquet", ASKED, queries, "q")
    np.save(folder / "docs.npy", documents)
    np.save(folder / "q.npy", queries)
    lines(folder / "docs.jsonl", TEXTS)
    lines(folder / "q.jsonl", ASKED, "q")
    return folder


def distilled(data, root, small, **given):
    settings = {"steps": 6, "batch_size": 16, "bank_size": 24, "max_length": 64, "eval_every": 3, "dtype": "float32"}
    return ibkd.distill(
        student=small,
        output_space="teacher",
        output=root,
        cache=root.parent / f"{root.name}-cache",
        **settings,
        **given,
    )


def weights(student):
    return (student.path / "model.safetensors").read_bytes()


def teacher_of(path, texts=None, folder=None, **given):
    listener = Listener()
    made = VectorTeacher(GivenVectors(str(path), texts, **given), None, folder or path.parent, progress=listener)
    return made, listener.said


def corpus_of(texts):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    return Corpus("tiny", len(documents), lambda: documents)


def test_a_student_of_vectors_alone_equals_the_one_of_the_model(tmp_path, data, bert, small):
    files = {"corpus": data / "docs.jsonl", "queries": data / "q.jsonl"}
    of_model = distilled(data, tmp_path / "model", small, teacher=str(bert), **files)
    of_vectors = distilled(
        data,
        tmp_path / "parquet",
        small,
        teacher_vectors=data / "docs.parquet",
        query_vectors=data / "q.parquet",
    )
    in_order = distilled(
        data, tmp_path / "npy", small, teacher_vectors=data / "docs.npy", query_vectors=data / "q.npy", **files
    )
    for student in (of_vectors, in_order):
        assert weights(student) == weights(of_model)
        assert student.figures["dev"] == of_model.figures["dev"]
        assert student.figures["speed_up"] is None
    assert "× the teacher's" not in (of_vectors.path / "README.md").read_text()
    again = ibkd.distill(of_vectors.path, output=tmp_path / "again", cache=tmp_path / "cache")
    assert weights(again) == weights(of_model)


def test_a_student_of_an_index_without_a_model_searches_that_index(tmp_path, data, small):
    index = tmp_path / "index"
    ibkd.import_vectors(data / "docs.parquet", index, type="flat")
    student = distilled(data, tmp_path / "student", small, teacher=index)
    assert student.record["teacher"]["texts_per_second"] == 0
    of_file = distilled(data, tmp_path / "of-file", small, teacher_vectors=data / "docs.parquet")
    for query_model in (student, of_file):
        assert len(ibkd.open_index(index, query_model=str(query_model)).search(TEXTS[0], k=3).hits) == 3
    # Deleted documents and other shards are no other space.
    ibkd.delete(index, ["d3"])
    ibkd.combine(index, tmp_path / "made-of-it", type="flat")
    ibkd.open_index(tmp_path / "made-of-it", query_model=str(student)).load()
    other = np.random.default_rng(0).normal(size=(20, 32))
    ibkd.import_vectors(other, tmp_path / "other", ids=[str(i) for i in range(20)])
    with pytest.raises(UserError, match=r"holds other vectors \(digest .*distill\(output_space"):
        ibkd.open_index(tmp_path / "other", query_model=str(student)).load()


def test_an_index_of_an_earlier_version_is_known_by_the_digest_of_its_stored_vectors(tmp_path, data, small):
    index = tmp_path / "index"
    ibkd.import_vectors(data / "docs.parquet", index)
    manifest = json.loads((index / "index.json").read_text())
    assert manifest["encoder"].pop("vectors")
    (index / "index.json").write_text(json.dumps(manifest))
    student = distilled(data, tmp_path / "student", small, teacher_vectors=data / "docs.parquet")
    assert ibkd.open_index(index, query_model=str(student)).search(TEXTS[0], k=1).hits


def test_an_index_of_a_named_model_teaches_in_the_space_of_that_model(tmp_path, data, bert, small):
    ibkd.build_index(str(data / "docs.jsonl"), str(bert), tmp_path / "index", type="flat", dtype="float32")
    student = distilled(data, tmp_path / "student", small, teacher=tmp_path / "index")
    assert student.record["teacher"]["name"] == str(bert)
    assert ibkd.open_index(tmp_path / "index", query_model=str(student)).search(TEXTS[0], k=1).hits


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, data, small, monkeypatch):
    from ibkd_retrieval.distill.training import stage1

    given = {"teacher_vectors": data / "docs.parquet", "checkpoint_every": 2}
    whole = distilled(data, tmp_path / "whole", small, **given)
    step = stage1.TrainingRun.step

    def stopped(self, number, **options):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, **options)

    monkeypatch.setattr(stage1.TrainingRun, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        distilled(data, tmp_path / "again", small, **given)
    monkeypatch.undo()
    again = distilled(data, tmp_path / "again", small, resume=True, **given)
    assert weights(again) == weights(whole)


def test_vectors_are_rounded_as_the_cache_rounds_them(tmp_path, data, teacher):
    made, _ = teacher_of(data / "docs.parquet")
    cache = TeacherCache(tmp_path / "cache", teacher)
    np.testing.assert_array_equal(made.vectors(made.rows(TEXTS)), cache.vectors(cache.rows(TEXTS)))


def test_texts_without_a_vector_are_counted_and_left_out(tmp_path, data):
    vectors = list(np.eye(4, dtype=np.float32)[[0, 1, 2, 3]])
    path = table(tmp_path / "v.parquet", ["a", "b", "c", "d"], [*vectors[:3], None])
    made, said = teacher_of(path)
    assert [document.text for document in made.corpus.documents()] == ["a", "b", "c"]
    assert any("1 of 4 texts" in message and "no vector" in message for message in said)
    made, said = teacher_of(path, corpus_of(["c", "d", " a ", "x"]))
    assert [document.text for document in made.corpus.documents()] == ["c", " a "]
    assert "2 of the 4 documents of tiny have no vector and are left out" in said
    np.testing.assert_array_equal(made.encode(["a"]), vectors[0][None])


def test_vectors_without_texts_are_matched_by_id(tmp_path):
    pq.write_table(pa.table({"doc_id": ["d2", "d0"], "emb": [[3.0, 0.0], [0.0, 2.0]]}), tmp_path / "v.parquet")
    made, said = teacher_of(tmp_path / "v.parquet", corpus_of(["a", "b", "c"]))
    np.testing.assert_array_equal(made.encode(["a", "c"]), [[0, 2], [3, 0]])
    assert [document.doc_id for document in made.corpus.documents()] == ["d0", "d2"]
    assert "of lengths from 2 to 3" in said[0]


def test_columns_of_other_names_are_chosen(tmp_path):
    from ibkd_retrieval.corpora.columns import Fields

    pq.write_table(pa.table({"nr": [7], "headline": ["a"], "what": ["b"], "v": [[1.0, 0.0]]}), tmp_path / "v.parquet")
    made, said = teacher_of(tmp_path / "v.parquet", fields=Fields.of("nr", "what", "headline"))
    (document,) = made.corpus.documents()
    assert (document.doc_id, document.content) == ("7", "a b")
    assert "all of length 1" in said[0]


ONE = [1.0, 0.0]


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        ([ONE, [1.0, float("nan")], ONE], "Vector 2 in .* is not finite"),
        ([ONE, [1.0], ONE], "row 2: the vector is missing or has another length"),
        ([ONE, [0.0, 0.0], ONE], "Vector 2 in .* is all zeros"),
        ([ONE, ONE, [0.0, 1.0]], "Vectors 1 and 3 in .* belong to the same text and differ: keep one of them"),
        ([None, None, None], "holds no vectors"),
    ],
)
def test_unfit_vectors_are_refused_in_a_sentence(tmp_path, vectors, sentence):
    with pytest.raises(UserError, match=sentence):
        teacher_of(table(tmp_path / "v.parquet", ["a", "b", "a"], vectors))


@pytest.mark.parametrize("name", ["teacher_pooling", "teacher_document_prompt", "teacher_device_map"])
def test_how_a_model_is_loaded_is_refused_for_an_index(tmp_path, data, small, name):
    ibkd.import_vectors(data / "docs.parquet", tmp_path / "index", type="flat")
    value = {"teacher_pooling": "cls", "teacher_document_prompt": "page: "}.get(name, "auto")
    with pytest.raises(UserError, match=rf"are made already: leave `{name}` out"):
        distilled(data, tmp_path / "x", small, teacher=tmp_path / "index", **{name: value})


def test_fewer_vectors_than_texts_are_refused_where_their_order_counts(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    with pytest.raises(UserError, match="holds 3 vectors and tiny 4 texts: give one vector for each text"):
        teacher_of(tmp_path / "v.npy", corpus_of("abcd"))
    with pytest.raises(UserError, match="name the texts, in their order, with `corpus`"):
        teacher_of(tmp_path / "v.npy")


def test_documents_and_queries_of_other_dimensions_are_refused(tmp_path):
    documents = table(tmp_path / "v.parquet", ["a"], [ONE])
    queries = table(tmp_path / "q.parquet", ["b"], [[1.0, 0.0, 0.0]])
    with pytest.raises(UserError, match=r"q.parquet holds vectors of 3 dimensions and .*v.parquet of 2"):
        VectorTeacher(GivenVectors(str(documents)), GivenVectors(str(queries), kind="query"), tmp_path)


def test_texts_of_another_corpus_are_refused(tmp_path):
    made, _ = teacher_of(table(tmp_path / "v.parquet", ["a"], [ONE]), corpus_of("xyz"))
    with pytest.raises(UserError, match="None of the 3 documents of tiny has a vector"):
        list(made.corpus.documents())
    with pytest.raises(UserError, match=r"1 of 2 texts have no vector in .*, such as 'b'"):
        made.encode(["a", "b"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"student": None}, "Layers of the teacher and static students .* name a small model with `student`"),
        ({"student": "static"}, "Layers of the teacher and static students"),
        ({"stage": "both", "pairs": [("a", "b")], "output_space": None}, "mines negatives with the teacher's model"),
        ({"synthetic_queries": 2}, "leave `synthetic_queries` out"),
        ({"teacher_query_prompt": "query: "}, "are made already: leave `teacher_query_prompt` out"),
        ({"teacher": "bert"}, "not both"),
        ({"teacher_vectors": None, "query_vectors": "q.parquet"}, "give `teacher_vectors` too"),
    ],
)
def test_what_needs_the_model_itself_is_refused(tmp_path, data, small, given, sentence):
    asked = {"teacher_vectors": data / "docs.parquet", "student": small, "output_space": "teacher"} | given
    with pytest.raises(UserError, match=sentence):
        ibkd.distill(**{name: each for name, each in asked.items() if each is not None}, output=tmp_path / "x")
    assert not (tmp_path / "x").exists()
