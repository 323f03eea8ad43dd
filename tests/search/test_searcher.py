from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.searching import HashEncoder
from ibkd_retrieval.corpora.records import Corpus, Document, Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.search import searcher as searcher_module
from ibkd_retrieval.search.searcher import Searcher

TEXTS = [f"text number {number}" for number in range(40)] + ["text number 3"]
DOCUMENTS = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]


class ExactIndex:
    """What `indexing.store.StoredIndex` promises, by brute force."""

    queries_at_once = None
    connected = nullcontext

    def __init__(self, encoder):
        record = SimpleNamespace(name=encoder.name, weight_hash=encoder.weight_hash)
        self.manifest = SimpleNamespace(
            encoder=record, dim=encoder.dim, document_count=len(DOCUMENTS), rows=len(DOCUMENTS)
        )
        self.vectors = encoder.encode(TEXTS)
        self.asked, self.wanted = [], []

    def search(self, vectors, k, search_params=None, *, allowed=None):
        self.asked.append((search_params.nprobe, search_params.refine))
        self.wanted.append(k)
        all_scores = vectors @ self.vectors.T
        rows = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(all_scores, rows, axis=1)
        extra = ((0, 0), (0, max(0, k - rows.shape[1])))
        return np.pad(scores, extra, constant_values=-np.inf), np.pad(rows, extra, constant_values=-1)

    def __len__(self):
        return len(DOCUMENTS)

    def doc_ids(self, rows):
        return [DOCUMENTS[row].doc_id for row in rows]

    def document(self, row):
        return DOCUMENTS[row]


@pytest.fixture
def searcher():
    encoder = HashEncoder()
    return Searcher(ExactIndex(encoder), encoder)


def test_hits_are_ranked_from_one_with_their_documents_and_ties_by_document_id(searcher):
    hits = searcher.search("text number 3", k=5)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit.doc_id for hit in hits[:2]] == ["d40", "d3"]
    assert hits[0].score == pytest.approx(1)
    assert all(hit.document == DOCUMENTS[int(hit.doc_id[1:])] for hit in hits)
    assert searcher.encoder.kinds[-1] == ("query", 1)


def test_one_search_and_a_batch_agree_in_any_block_size(searcher, monkeypatch):
    queries = [Query(f"q{number}", f"question {number}") for number in range(7)]
    monkeypatch.setattr(searcher_module, "QUERY_BLOCK", 3)
    run = searcher.search_batch(queries, k=12, tag="mine")
    assert run.query_ids == tuple(query.query_id for query in queries)
    assert run.tag == "mine"
    assert searcher.encoder.kinds[1:] == [("query", 7)]
    for query, (_, doc_ids, scores) in zip(queries, run, strict=True):
        hits = searcher.search(query.text, k=12)
        assert [hit.doc_id for hit in hits] == doc_ids.tolist()
        assert [hit.score for hit in hits] == pytest.approx(scores.tolist())


def test_the_hits_of_several_vectors_are_those_of_each_alone(searcher):
    vectors = searcher.encode([Query(f"q{number}", f"question {number}") for number in range(5)])
    for vector, hits in zip(vectors, searcher.hits_of_each(vectors, len(DOCUMENTS)), strict=True):
        alone = searcher.hits(vector[None], len(DOCUMENTS))
        assert [hit.rank for hit in hits] == [hit.rank for hit in alone]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-6)
        # The two documents of one text are tied, but for rounding.
        assert [hit.document.text for hit in hits] == [hit.document.text for hit in alone]
    assert searcher.hits_of_each(vectors[:0], 12) == []


def test_more_results_than_documents_gives_all_documents(searcher):
    assert len(searcher.search("a", k=1000)) == len(DOCUMENTS)
    assert len(searcher.search_batch([Query("q", "a")], k=1000).doc_ids) == len(DOCUMENTS)
    assert searcher.index.wanted == [len(DOCUMENTS)] * 2


def test_no_queries_make_an_empty_run(searcher):
    assert len(searcher.search_batch([])) == 0


def test_the_settings_of_the_search_reach_the_index():
    encoder = HashEncoder()
    index = ExactIndex(encoder)
    Searcher(index, encoder, search_params=SearchParams(nprobe=4, refine=2)).search("a")
    assert index.asked == [(4, 2)]


def test_an_encoder_with_other_weights_is_refused_unless_asked_for():
    index, other = ExactIndex(HashEncoder()), HashEncoder("b" * 64)
    with pytest.raises(UserError, match=r"built with tiny \(weights a{12}\).*query model is tiny \(weights b{12}\)"):
        Searcher(index, other)
    assert len(Searcher(index, other, other_encoder=True).search("a", k=3)) == 3


def test_an_encoder_of_other_dimensions_is_always_refused():
    with pytest.raises(UserError, match="vectors of 8 dimensions made by tiny, and the query model tiny makes 4"):
        Searcher(ExactIndex(HashEncoder()), HashEncoder(dim=4), other_encoder=True)


@pytest.mark.parametrize("k", [0, -3])
def test_asking_for_no_results_is_refused(searcher, k):
    with pytest.raises(UserError, match=f"must be at least 1, not {k}"):
        searcher.search("a", k=k)
    with pytest.raises(UserError, match=f"must be at least 1, not {k}"):
        searcher.search_batch([Query("q", "a")], k=k)


def test_empty_and_repeated_queries_are_refused(searcher):
    with pytest.raises(UserError, match="The query is empty"):
        searcher.search(" \n")
    with pytest.raises(UserError, match="Query q2 is empty"):
        searcher.search_batch([Query("q1", "a"), Query("q2", "")])
    with pytest.raises(UserError, match="Query q1 appears twice"):
        searcher.search_batch([Query("q1", "a"), Query("q1", "b")])


@pytest.mark.parametrize("queries", [1, 6])
def test_ids_are_the_same_whether_the_results_are_many_or_few_against_the_documents(searcher, queries):
    asked = [Query(f"q{number}", f"question {number}") for number in range(queries)]
    run = searcher.search_batch(asked, k=10)
    for query, (_, doc_ids, scores) in zip(asked, run, strict=True):
        expected = searcher.encoder.encode([query.text], "query")[0] @ searcher.index.vectors.T
        assert scores == pytest.approx([expected[int(doc_id[1:])] for doc_id in doc_ids])
        assert scores.min() == pytest.approx(np.sort(expected)[-10])


def test_a_stored_index_answers_like_brute_force(tmp_path):
    pytest.importorskip("faiss")
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.index import open_index

    encoder = HashEncoder()
    build_index(Corpus("tiny", len(DOCUMENTS), lambda: DOCUMENTS), encoder, tmp_path / "index")
    stored = Searcher(open_index(tmp_path / "index"), encoder)
    queries = [Query(f"q{number}", f"question {number}") for number in range(5)]
    exact = Searcher(ExactIndex(encoder), encoder).search_batch(queries, k=50)
    for (_, ids, scores), (_, wanted, wanted_scores) in zip(stored.search_batch(queries, k=50), exact, strict=True):
        np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)
        score_of = dict(zip(wanted.tolist(), wanted_scores.tolist(), strict=True))
        # Two ways to add up the same products may differ in the last bit, and rank what is all but equal either way.
        assert [score_of[doc_id] for doc_id in ids.tolist()] == pytest.approx(wanted_scores.tolist(), abs=1e-6)
        assert sorted(ids.tolist()) == sorted(wanted.tolist())
    best = stored.search("text number 7", k=1)[0]
    assert best.document == DOCUMENTS[7]
    with pytest.raises(UserError, match="The index was built with tiny"):
        Searcher(stored.index, HashEncoder("b" * 64))
