import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.searching import HashEncoder, rankings, searcher
from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.searcher import MergedSearcher, merged

DOCUMENTS = [Document(f"d{number}", f"text number {number}") for number in range(30)]
QUERIES = [Query(f"q{number}", f"question {number}") for number in range(5)]
SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-3, 3).map(float), max_size=8)


def run_of(*scores):
    return Run.from_lists(
        [f"q{number}" for number in range(len(scores))],
        [list(each) for each in scores],
        [list(each.values()) for each in scores],
    )


@given(st.lists(st.tuples(SCORES, SCORES), max_size=4), st.integers(1, 9))
def test_a_merge_is_the_best_of_each_document_cut_at_k(pairs, k):
    found = rankings(merged(run_of(*(left for left, _ in pairs)), run_of(*(right for _, right in pairs)), k))
    for number, (left, right) in enumerate(pairs):
        best = {name: max(left.get(name, -9), right.get(name, -9)) for name in {*left, *right}}
        assert found[f"q{number}"] == sorted(best.items(), key=lambda item: (item[1], item[0]), reverse=True)[:k]


def test_parts_of_a_corpus_searched_together_are_the_corpus(tmp_path):
    whole = searcher(tmp_path / "whole", DOCUMENTS)
    # The parts share five documents.
    parts = MergedSearcher([searcher(tmp_path / "a", DOCUMENTS[:15]), searcher(tmp_path / "b", DOCUMENTS[10:])])
    for k in (3, 12, 100):
        together, at_once = parts.search_batch(QUERIES, k), whole.search_batch(QUERIES, k)
        assert together.doc_ids.tolist() == at_once.doc_ids.tolist()
        np.testing.assert_allclose(together.scores, at_once.scores, atol=1e-6)
        for query, (_, doc_ids, _) in zip(QUERIES, at_once, strict=True):
            hits = parts.search(query.text, k)
            assert [hit.doc_id for hit in hits] == doc_ids.tolist()
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            assert all(hit.document == DOCUMENTS[int(hit.doc_id[1:])] for hit in hits)


def test_queries_are_encoded_once(tmp_path):
    encoder = HashEncoder()
    parts = [searcher(tmp_path / str(half), DOCUMENTS[half::2], encoder) for half in (0, 1)]
    encoder.kinds.clear()
    MergedSearcher(parts).search_batch(QUERIES, 3)
    assert encoder.kinds == [("query", 5)]


@pytest.mark.parametrize("other", [HashEncoder("b" * 64), HashEncoder(dim=4)])
def test_indexes_of_different_encoders_are_refused(tmp_path, other):
    searchers = [searcher(tmp_path / "a", DOCUMENTS), searcher(tmp_path / "b", DOCUMENTS, other)]
    with pytest.raises(UserError, match=r"a \(tiny, 8 dimensions.* and .*b \(tiny.* were made by different encoders"):
        MergedSearcher(searchers)


def test_what_no_index_can_answer_is_refused(tmp_path):
    parts = MergedSearcher([searcher(tmp_path / "a", DOCUMENTS)])
    with pytest.raises(UserError, match="The query is empty"):
        parts.search(" ")
    with pytest.raises(UserError, match="at least 1, not 0"):
        parts.search_batch(QUERIES, 0)
