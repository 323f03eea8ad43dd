"""An index is searched by given vectors of queries, and no model is loaded."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ibkd_retrieval as ibkd
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.evaluate_index import evaluate_index
from ibkd_retrieval.search.options import RankerOptions

VECTORS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture
def index(tmp_path):
    texts = {f"d{i}": f"page number {i}" for i in range(20)}
    return ibkd.import_vectors(VECTORS, tmp_path / "index", ids=list(texts), corpus=texts, normalise=True).folder


def file_of(folder, rows, **columns):
    column = pa.array([list(map(float, VECTORS[row])) for row in rows], pa.list_(pa.float32()))
    pq.write_table(pa.table(columns | {"vector": column}), folder / "q.parquet")
    return str(folder / "q.parquet")


def best(run):
    return {query: next(iter(run[query])) for query in run.query_ids}


def test_queries_are_those_of_the_file_unless_others_are_given(index, tmp_path):
    with pytest.raises(UserError, match="has the columns nr, vector: name the one with ids"):
        ibkd.open_index(index, query_vectors=file_of(tmp_path, [3, 5], nr=["a", "b"])).load()
    path = file_of(tmp_path, [3, 5], query_id=["a", "b"])
    opened = ibkd.open_index(index, query_vectors=path)
    assert best(opened.search_batch(k=2)) == {"a": "d3", "b": "d5"}
    assert best(opened.search_batch({"b": "whatever is asked"}, k=2)) == {"b": "d5"}
    with pytest.raises(UserError, match=r"1 of 2 queries have no vector in .*q.parquet, such as c"):
        opened.search_batch({"a": "x", "c": "y"})
    with pytest.raises(UserError, match="holds no texts of queries: leave out `hybrid`"):
        ibkd.open_index(index, query_vectors=path, hybrid="rrf").search_batch()


def test_texts_of_the_file_are_matched_by_text_and_words_are_searched_too(index, tmp_path):
    path = file_of(tmp_path, [3, 5], text=["page number 3", "fifth"])
    opened = ibkd.open_index(index, query_vectors=path)
    assert opened.search(" fifth ", k=1).hits[0].doc_id == "d5"
    # Here an id of the queries is the number of another row.
    assert best(opened.search_batch({"1": "fifth"})) == {"1": "d5"}
    hybrid = ibkd.open_index(index, query_vectors=path, hybrid="rrf")
    assert "d3" in [hit.doc_id for hit in hybrid.search("page number 3", k=3).hits]
    with pytest.raises(UserError, match="have no vector"):
        hybrid.search("page number 4")
    with pytest.raises(UserError, match="have no vector"):
        opened.search("sixth")


def test_an_index_is_scored_by_given_vectors(index, tmp_path):
    path = file_of(tmp_path, [3, 5], _id=["a", "b"])
    options = RankerOptions(query_vectors=path)
    scores = evaluate_index([index], options, qrels={"a": {"d3": 1}, "b": {"d4": 1}}, metrics=["mrr@1"], resamples=9)
    assert scores["mrr@1"] == 0.5


@pytest.mark.parametrize(
    ("columns", "vectors", "sentence"),
    [
        ({"id": ["a", "a"]}, [[1.0] * 4, [0.5] * 4], "query id a appears twice"),
        ({"text": ["x", "x"]}, [[1.0] * 4, [-1.0] * 4], "Vectors 1 and 2 in .* belong to the same text and differ"),
        ({"id": ["a", "b"]}, [[1.0] * 4, [float("nan")] * 4], "Vector 2 in .* is not finite"),
        ({"id": ["a", "b"]}, [[1.0] * 3, [0.5] * 3], "holds vectors of 3 dimensions and the index .* of 4"),
        ({"id": ["a", "b"]}, [[1.0] * 4, [0.5] * 3], "the vector is missing or has another length"),
    ],
)
def test_unfit_vectors_of_queries_are_refused(index, tmp_path, columns, vectors, sentence):
    pq.write_table(pa.table(columns | {"vector": pa.array(vectors, pa.list_(pa.float32()))}), tmp_path / "q.parquet")
    with pytest.raises(UserError, match=sentence):
        ibkd.open_index(index, query_vectors=str(tmp_path / "q.parquet")).search_batch()


def test_given_vectors_take_the_place_of_a_model(index, tmp_path):
    with pytest.raises(UserError, match="leave out `model` and `query_model`"):
        ibkd.open_index(index, query_vectors="q.parquet", query_model="m")
