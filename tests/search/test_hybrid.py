from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT
from ibkd_retrieval.search.ranker import HybridSearcher
from ibkd_retrieval.search.runs import Hit, Run
from ibkd_retrieval.search.runs.fusion import reciprocal_rank_fusion, weighted_sum

QUERIES = [Query("q1", "one"), Query("q2", "two"), Query("q3", "three")]


class Fixed:
    """A ranker that knows its answers by the text of the query."""

    def __init__(self, name, answers):
        self.name, self.answers, self.asked = name, answers, []

    def search(self, text, k=10):
        ((_, ids, scores),) = self.search_batch([Query("q", text)], k)
        return [Hit(i + 1, s, d, Document(d, f"text of {d}")) for i, (d, s) in enumerate(zip(ids, scores, strict=True))]

    def search_batch(self, queries, k=1000, progress=SILENT, tag="ibkd"):
        self.asked.append(k)
        best = [sorted(self.answers[query.text].items(), key=lambda item: -item[1])[:k] for query in queries]
        return Run.from_lists(
            [query.query_id for query in queries],
            [[d for d, _ in b] for b in best],
            [[s for _, s in b] for b in best],
            tag,
        )


@pytest.fixture
def rankers():
    vectors = {"one": {"a": 0.9, "b": 0.8, "c": 0.1}, "two": {"c": 0.5}, "three": {"e": 0.3, "a": 0.2}}
    words = {"one": {"b": 12.0, "d": 3.0}, "two": {}, "three": {"a": 8.0, "f": 7.0, "e": 1.0}}
    return [Fixed("vectors", vectors), Fixed("words", words)]


@pytest.mark.parametrize(("method", "weights"), [("rrf", None), ("rrf", [3, 1]), ("sum", None), ("sum", [0.2, 0.8])])
def test_a_batch_is_the_fusion_of_the_runs_cut_to_k(rankers, method, weights):
    run = HybridSearcher(rankers, method, weights).search_batch(QUERIES, k=2, tag="mine")
    runs = [ranker.search_batch(QUERIES) for ranker in rankers]
    if method == "rrf":
        whole = reciprocal_rank_fusion(runs, weights=weights)
    else:
        whole = weighted_sum(runs, weights or [0.5, 0.5])
    assert run.tag == "mine"
    assert run.query_ids == ("q1", "q2", "q3")
    for (_, ids, scores), (_, all_ids, all_scores) in zip(run, whole, strict=True):
        assert ids.tolist() == all_ids.tolist()[:2]
        assert scores.tolist() == all_scores.tolist()[:2]


def test_only_the_documents_that_are_shown_are_read(rankers):
    read = []

    class Stored(Fixed):
        def search(self, text, k=10):
            return [replace(hit, source=partial(self.open, hit.document)) for hit in super().search(text, k)]

        def open(self, document):
            read.append(document.doc_id)
            return document

    hits = HybridSearcher([Stored(each.name, each.answers) for each in rankers]).search("one", k=2)
    assert read == []
    assert [hit.read().document.doc_id for hit in hits] == read == [hit.doc_id for hit in hits]


@pytest.mark.parametrize("method", ["rrf", "sum"])
def test_one_search_and_a_batch_agree_and_hits_carry_their_documents(rankers, method):
    hybrid = HybridSearcher(rankers, method)
    for query, (_, ids, scores) in zip(QUERIES, hybrid.search_batch(QUERIES, k=3), strict=True):
        hits = hybrid.search(query.text, k=3)
        assert [hit.doc_id for hit in hits] == ids.tolist()
        assert [hit.score for hit in hits] == scores.tolist()
        assert [hit.rank for hit in hits] == list(range(1, len(ids) + 1))
        assert all(hit.document == Document(hit.doc_id, f"text of {hit.doc_id}") for hit in hits)


def test_the_depth_decides_what_is_fused_unless_more_is_asked_for(rankers):
    shallow = HybridSearcher(rankers, depth=1)
    assert shallow.search_batch(QUERIES[:1], k=1).doc_ids.tolist() == ["b"]
    assert rankers[0].asked[-1] == 1
    shallow.search("one", k=7)
    assert rankers[1].asked[-1] == 7


def test_the_name_is_that_of_its_parts_and_no_queries_make_an_empty_run(rankers):
    assert HybridSearcher(rankers).name == "vectors+words"
    assert len(HybridSearcher(rankers).search_batch([])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rankers": [SimpleNamespace(name="a")]}, "two rankers or more: got 1"),
        ({"method": "max"}, "no fusion 'max': choose one of rrf, sum"),
        ({"depth": 0}, "at least 1, not 0"),
        ({"weights": [1]}, "one weight for each of 2 runs: got 1"),
        ({"weights": [-1, 2]}, "not all 0: got -1, 2"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(rankers, changes, message):
    with pytest.raises(UserError, match=message):
        HybridSearcher(**{"rankers": rankers} | changes)
