from hypothesis import given
from hypothesis import strategies as st

from helpers.searching import rankings, searcher
from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.search.ranker import ExcludingSelf, without_own
from ibkd_retrieval.search.runs import Run

IDS = st.sampled_from("abcdef")
RANKINGS = st.dictionaries(IDS, st.lists(IDS, unique=True), max_size=5)


@given(RANKINGS, st.integers(1, 7))
def test_what_is_left_are_the_first_k_others_in_order(ranked, k):
    run = Run.from_lists(list(ranked), list(ranked.values()), [range(len(ids), 0, -1) for ids in ranked.values()], "t")
    left = rankings(without_own(run, k))
    for query, ids in ranked.items():
        others = [(doc_id, float(len(ids) - place)) for place, doc_id in enumerate(ids) if doc_id != query]
        assert left[query] == others[:k]


def test_k_results_remain_of_an_index_that_holds_its_own_queries(tmp_path):
    documents = [Document(f"d{number}", f"text {number}") for number in range(20)]
    dense = searcher(tmp_path / "index", documents)
    queries = [Query(document.doc_id, document.text) for document in documents[:6]] + [Query("else", "something else")]
    with_own, others = dense.search_batch(queries, k=20), ExcludingSelf(dense).search_batch(queries, k=5)
    for query, ranked in rankings(others).items():
        assert len(ranked) == 5
        assert ranked == [hit for hit in rankings(with_own)[query] if hit[0] != query][:5]
    assert rankings(with_own)["d3"][0][0] == "d3"
