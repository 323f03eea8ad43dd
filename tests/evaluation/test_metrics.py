import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.search.runs.run_files import Run, read_run, write_run

# Ours and trec_eval's name of the same figure.
TREC_EVAL = {
    "recip_rank": "recip_rank",
    "ndcg": "ndcg",
    "ndcg@1": "ndcg_cut_1",
    "ndcg@3": "ndcg_cut_3",
    "nDCG@10": "ndcg_cut_10",
    "map": "map",
    "AP@3": "map_cut_3",
    "P@1": "P_1",
    "P_5": "P_5",
    "precision": "set_P",
    "R@3": "recall_3",
    "recall": "set_recall",
    "f1": "set_F",
    "success_1": "success_1",
    "hit_rate@5": "success_5",
    "r-precision": "Rprec",
    "bpref": "bpref",
    "hits": "num_rel_ret",
}
ASKED = {
    *("recip_rank", "ndcg", "ndcg_cut.1,3,10", "map", "map_cut.3", "P.1,5", "set_P", "recall.3", "set_recall"),
    *("set_F", "success.1,5", "Rprec", "bpref", "num_rel_ret"),
}

DOC_IDS = st.sampled_from([f"d{number}" for number in range(12)] + ["é", "Z", "日"])
QUERY_IDS = st.sampled_from(["q1", "q2", "q3", "q4"])
TIED_SCORES = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12, 1.0 + 1e-5, 2.0, -1.0])
RUNS = st.dictionaries(QUERY_IDS, st.dictionaries(DOC_IDS, TIED_SCORES, max_size=14), max_size=4)
QRELS = st.dictionaries(
    QUERY_IDS, st.dictionaries(DOC_IDS, st.integers(-1, 3), min_size=1, max_size=10), min_size=1, max_size=4
)


def run_of(rankings):
    return Run.from_lists(
        list(rankings), [list(ranking) for ranking in rankings.values()], [list(r.values()) for r in rankings.values()]
    )


def judgements_of(qrels):
    return [Judgement(query, doc, grade) for query, judged in qrels.items() for doc, grade in judged.items()]


def trec_eval(qrels, rankings, level):
    # A negative grade means unjudged to trec_eval. pytrec_eval counts it below an array's start: it crashes, at times,
    # or never returns.
    known = {query: {doc: grade for doc, grade in judged.items() if grade >= 0} for query, judged in qrels.items()}
    judged = {query: grades for query, grades in known.items() if grades}
    found = pytrec_eval.RelevanceEvaluator(judged, ASKED, relevance_level=level).evaluate(rankings)
    return {
        name: [found[query][theirs] if query in found else 0.0 for query in qrels] for name, theirs in TREC_EVAL.items()
    }


@settings(max_examples=150)
@given(RUNS, QRELS, st.sampled_from([1, 2]))
def test_every_metric_equals_trec_eval_on_ties_missing_queries_and_empty_lists(rankings, qrels, level):
    common = any(rankings.get(query) for query in qrels)
    relevant = any(grade >= level for judged in qrels.values() for grade in judged.values())
    if not common or not relevant:
        with pytest.raises(UserError):
            evaluate_run(run_of(rankings), judgements_of(qrels), list(TREC_EVAL), level)
        return
    ours = evaluate_run(run_of(rankings), judgements_of(qrels), list(TREC_EVAL), level)
    theirs = trec_eval(qrels, rankings, level)
    assert ours.query_ids == tuple(qrels)
    for name in TREC_EVAL:
        np.testing.assert_allclose(ours.per_query[name], theirs[name], atol=1e-9, err_msg=name)
        assert ours.scores[name] == pytest.approx(np.mean(theirs[name]), abs=1e-9)


def test_long_lists_full_of_ties_equal_trec_eval_before_and_after_a_file(tmp_path):
    rng = np.random.default_rng(3)
    docs = [f"d{number}" for number in range(3000)]
    rankings = {
        f"q{query}": dict(zip(rng.permutation(docs)[:1000].tolist(), rng.integers(0, 40, 1000) / 7, strict=True))
        for query in range(12)
    }
    rankings = {query: {doc: float(score) for doc, score in ranking.items()} for query, ranking in rankings.items()}
    qrels = {
        f"q{query}": {doc: int(rng.integers(0, 4)) for doc in rng.permutation(docs)[:200].tolist()}
        for query in range(15)
    }
    write_run(run_of(rankings), tmp_path / "run.gz")
    theirs = trec_eval(qrels, rankings, 1)
    for run in (run_of(rankings), read_run(tmp_path / "run.gz")):
        ours = evaluate_run(run, judgements_of(qrels), list(TREC_EVAL))
        assert ours.missing == 3
        for name in TREC_EVAL:
            np.testing.assert_allclose(ours.per_query[name], theirs[name], atol=1e-9, err_msg=name)


def test_a_scorer_that_ties_every_document_is_ranked_by_document_id_and_not_by_luck():
    # Ten relevant documents among a thousand, all scores equal: the ids decide, so the mean is that of a random order.
    rng = np.random.default_rng(5)
    docs = [f"d{number:04}" for number in range(1000)]
    qrels = {f"q{query}": dict.fromkeys(rng.permutation(docs)[:10].tolist(), 1) for query in range(200)}
    found = evaluate_run(run_of({query: dict.fromkeys(docs, 0.5) for query in qrels}), judgements_of(qrels), ["mrr@10"])
    expected = [1 / rank for rank in range(1, 11)]
    assert found.scores["mrr@10"] < 0.06
    assert found.scores["mrr@10"] == pytest.approx(np.mean(expected) * 10 / 100, abs=0.03)


def test_the_share_of_judged_documents_is_that_of_the_first_ten_of_answered_queries():
    ranking = {f"d{number}": -float(number) for number in range(20)}
    found = evaluate_run(
        run_of({"full": ranking, "short": {"d0": 1.0, "d1": 0.5}, "gone": {}}),
        judgements_of({"full": {"d0": 1, "d9": 0, "d10": 1}, "short": {"d0": 1, "d1": -1}, "gone": {"d0": 1}}),
        ["mrr@3"],
    )
    assert found.judged_share == pytest.approx((2 + 1) / (10 + 2))
    assert found.answered.tolist() == [True, True, False]


RANKING = run_of({"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}})
GRADES = judgements_of({"q": {"b": 2, "c": 1, "d": 3, "e": 3}})


def score(metric, level=1):
    return evaluate_run(RANKING, GRADES, [metric], level).scores[metric]


def test_a_level_in_the_name_or_the_call_moves_binary_metrics_alike():
    assert score("mrr@10") == pytest.approx(1 / 2)
    assert score("mrr@10-l3") == score("mrr@10", 3) == pytest.approx(1 / 4)
    assert score("AP(rel=2)@100") == score("map@100-l2") == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert score("recall@3-l1", 3) == pytest.approx(2 / 4)


def test_ndcg_keeps_its_grades_unless_its_own_name_has_a_level():
    def discounted(gains):
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))

    full = discounted([0, 2, 1, 3]) / discounted([3, 3, 2, 1])
    assert score("ndcg@10") == pytest.approx(full)
    assert score("ndcg@10", 3) == pytest.approx(full)
    assert score("ndcg@10-l3") == pytest.approx(discounted([0, 0, 0, 3]) / discounted([3, 3]))
    assert score("dcg@3") == pytest.approx(discounted([0, 2, 1]))
    assert score("dcg_burges") == pytest.approx(discounted([0, 3, 1, 7]))
    assert score("ndcg_burges@4") == pytest.approx(discounted([0, 3, 1, 7]) / discounted([7, 7, 3, 1]))


def test_rank_biased_precision_is_binary():
    assert score("rbp.8") == pytest.approx(0.2 * (0.8 + 0.8**2 + 0.8**3))
    assert score("rbp@0.8-l3") == pytest.approx(0.2 * 0.8**3)


def test_f1_at_a_cutoff_divides_by_the_cutoff():
    assert score("f1@10") == pytest.approx(2 * (3 / 10) * (3 / 4) / (3 / 10 + 3 / 4))


def test_missing_and_extra_queries_and_those_without_relevant_documents_are_counted():
    found = evaluate_run(
        run_of({"x": {"a": 1.0}, "q": {"a": 1.0}, "empty": {}}),
        judgements_of({"q": {"a": 1}, "gone": {"a": 1}, "empty": {"a": 2}, "none": {"a": 0}}),
        ["mrr@10", "MRR@10"],
    )
    assert (found.missing, found.extra, found.without_relevant) == (3, 1, 1)
    assert found.scores == {"mrr@10": 0.25, "MRR@10": 0.25}
    assert found.per_query["mrr@10"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("rankings", "qrels", "names", "level", "sentence"),
    [
        ({"a": {"d": 1.0}}, {"b": {"d": 1}}, ["mrr"], 1, r"\(queries a, ...\) and the judgements \(queries b, ...\)"),
        ({}, {"b": {"d": 1}}, ["mrr"], 1, r"The run \(no queries\)"),
        ({"b": {}}, {"b": {"d": 1}}, ["mrr"], 1, "have no query in common"),
        ({"b": {"d": 1.0}}, {"b": {"d": 0}}, ["mrr"], 1, "No judgement reaches the relevance level 1 .* is 0"),
        ({"b": {"d": 1.0}}, {"b": {"d": 1}}, ["mrr"], 2, "No judgement reaches the relevance level 2"),
        ({"b": {"d": 1.0}}, {}, ["mrr"], 1, "No judgement reaches"),
        ({"b": {"d": 1.0}}, {"b": {"d": 1}}, ["mrr"], 0, "must be at least 1, not 0"),
        ({"b": {"d": 1.0}}, {"b": {"d": 1}}, [], 1, "No metric was named: use one or more of mrr@10"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(rankings, qrels, names, level, sentence):
    with pytest.raises(UserError, match=sentence):
        evaluate_run(run_of(rankings), judgements_of(qrels), names, level)


def test_contradicting_judgements_are_refused_and_repeated_ones_are_not():
    run = run_of({"q": {"d": 1.0}})
    assert evaluate_run(run, [Judgement("q", "d", 1)] * 2, ["mrr"]).scores == {"mrr": 1.0}
    with pytest.raises(UserError, match="Document d is judged 1 and 2 for query q"):
        evaluate_run(run, [Judgement("q", "d", 1), Judgement("q", "d", 2)], ["mrr"])
