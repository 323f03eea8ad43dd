import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.metric_names import known_metrics, parse_metric


@pytest.mark.parametrize(
    ("names", "canonical", "cutoff"),
    [
        ("mrr@10 RR@10 MRR@10 mrr_at_10 recip_rank@10 mrr.10 RR_10", "mrr", 10),
        ("recip_rank mrr RR reciprocal_rank", "mrr", None),
        ("ndcg@10 nDCG@10 NDCG@10 ndcg_cut_10 ndcg_cut.10 ndcg_at_10 ndcg_cut@10", "ndcg", 10),
        ("ndcg nDCG", "ndcg", None),
        ("recall@1000 R@1000 recall_1000 recall.1000 Recall_at_1000", "recall", 1000),
        ("map@100 AP@100 map_cut_100 map_cut.100 MAP_at_100", "map", 100),
        ("map AP average_precision", "map", None),
        ("precision@5 P@5 P_5 P.5 p_at_5", "precision", 5),
        ("set_P precision", "precision", None),
        ("hit_rate@5 success_5 Success@5 hit@5 hitrate@5", "hit_rate", 5),
        ("hits@5", "hits", 5),
        ("f1@7", "f1", 7),
        ("r-precision R-Precision Rprec r_precision", "r-precision", None),
        ("bpref Bpref", "bpref", None),
        ("dcg@10", "dcg", 10),
        ("dcg_burges@10", "dcg_burges", 10),
        ("ndcg_burges@10", "ndcg_burges", 10),
    ],
)
def test_spellings_of_one_metric_are_the_same_metric(names, canonical, cutoff):
    for name in names.split():
        assert parse_metric(name) == (name, canonical, cutoff, None, None)


@pytest.mark.parametrize(
    ("name", "canonical", "cutoff", "level"),
    [("mrr@10-l2", "mrr", 10, 2), ("AP(rel=2)@100", "map", 100, 2), ("r-precision-l3", "r-precision", None, 3)],
)
def test_a_suffix_sets_the_relevance_level(name, canonical, cutoff, level):
    assert parse_metric(name) == (name, canonical, cutoff, level, None)


@pytest.mark.parametrize("name", ["rbp.95", "RBP@95", "rbp@0.95", "rbp_95"])
def test_rank_biased_precision_has_a_persistence(name):
    assert parse_metric(name).persistence == 0.95
    assert parse_metric(name).cutoff is None
    assert parse_metric(f"{name}-l2").level == 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ndgc@10", r"Metric 'ndgc@10' is not known \(did you mean ndcg@10\?\): use one of mrr@10, ndcg@10"),
        ("reccall_100", "did you mean recall@1000"),
        ("bleu", "Metric 'bleu' is not known: use one of"),
        ("", "Metric '' is not known"),
        ("mrr@ten", "is not known .did you mean mrr@10"),
        ("mrr@0", "the cutoff must be a whole number from 1 to "),
        ("mrr@99999999999999999999", "the cutoff must be a whole number from 1 to "),
        ("mrr@2.5", "the cutoff must be a whole number"),
        ("mrr@10-l0", "the relevance level must be from 1 to "),
        ("mrr@10-l99999999999999999999", "the relevance level must be from 1 to "),
        ("AP(rel=2)@10-l3", "gives the relevance level twice"),
        ("bpref@10", "bpref counts all results: leave out the number"),
        ("rbp", "needs a persistence between 0 and 1"),
        ("rbp@1.5", "needs a persistence between 0 and 1"),
        ("rbp.0", "needs a persistence between 0 and 1"),
    ],
)
def test_a_name_without_sense_is_refused_with_what_would_have_one(name, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_metric(name)


def test_every_name_that_is_suggested_is_known():
    canonical = [parse_metric(name).canonical for name in known_metrics()]
    assert len(set(canonical)) == len(canonical) == 14


@given(st.text(max_size=20) | st.from_regex(r"[a-z_]{1,8}[@._]\d{0,3}(-l\d)?", fullmatch=True))
def test_any_text_is_a_metric_or_a_sentence(name):
    try:
        told = repr(parse_metric(name).name)
    except UserError as error:
        told = str(error)
    assert repr(name) in told
