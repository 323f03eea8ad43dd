import json

import pytest

from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair, judged_pairs, read_pairs
from ibkd_retrieval.errors import UserError


def corpus():
    documents = [Document("a", "river", "The"), Document("b", "bank"), Document("c", "boat"), Document("d", "  ")]
    return Corpus("c", 4, lambda: documents)


def queries(*judgements, level=1):
    asked = (Query("1", "what flows"), Query("2", "what floats"), Query("3", "what is nowhere"))
    return QuerySet("q", asked, tuple(Judgement(*judgement) for judgement in judgements), level)


def test_judged_queries_get_the_contents_of_their_relevant_documents():
    given = queries(("1", "b", 1), ("1", "a", 2), ("1", "c", 0), ("2", "c", 1), ("3", "gone", 1), ("3", "d", 1))
    assert judged_pairs(corpus(), given).pairs == (
        TrainingPair("what flows", ("The river", "bank")),
        TrainingPair("what floats", ("boat",)),
    )
    graded = queries(("1", "b", 1), ("1", "a", 2), level=2)
    assert judged_pairs(corpus(), graded).pairs == (TrainingPair("what flows", ("The river",)),)


def test_judged_queries_of_the_same_text_are_one_pair():
    # Two pairs of one text would take each other's passages for negatives.
    asked = QuerySet(
        "q", (Query("1", "same"), Query("2", " same")), (Judgement("1", "a", 1), Judgement("2", "b", 1)), 1
    )
    assert judged_pairs(corpus(), asked).pairs == (TrainingPair("same", ("The river", "bank")),)


def test_judgements_without_any_relevant_passage_are_refused():
    with pytest.raises(UserError, match="No query of q has a relevant passage in c: give `pairs`"):
        judged_pairs(corpus(), queries(("1", "gone", 1), ("2", "c", 0)))


def written(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_lines_with_the_same_query_are_one_pair(tmp_path):
    path = written(
        tmp_path / "pairs.jsonl",
        {"query": "x", "passage": "one", "negatives": ["far", "two", ""]},
        {"query": "y", "passage": "three"},
        {"query": "x ", "passage": "two", "negatives": ["far", "away"]},
    )
    assert read_pairs(path).pairs == (
        TrainingPair("x", ("one", "two"), ("far", "away")),
        TrainingPair("y", ("three",)),
    )
    assert not read_pairs(path).has_negatives


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"query": "x"}', '{"query": "x", "passage": 3}', '{"query": "x", "passage": " "}']
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line):
    path = written(tmp_path / "pairs.jsonl", {"query": "x", "passage": "one"}, line)
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 2: "):
        read_pairs(path)
    with pytest.raises(UserError, match="holds no pair"):
        read_pairs(written(tmp_path / "empty.jsonl"))


def test_queries_and_passages_that_are_held_out_are_not_learnt_from():
    pairs = PairSet("p", (TrainingPair("x", ("one",)), TrainingPair("y", ("two", "four"), ("three", "one"))))
    assert pairs.without([" x "]).pairs == pairs.pairs[1:]
    assert pairs.without(["one "]).pairs == (TrainingPair("y", ("two", "four"), ("three",)),)
    assert pairs.without(["two"]).pairs == (pairs.pairs[0], TrainingPair("y", ("four",), ("three", "one")))
    with pytest.raises(UserError, match="All pairs of p have their query or passage in the dev set"):
        pairs.without(["x", "two", "four"])


def test_the_fingerprint_tells_positives_from_negatives():
    first = PairSet("p", (TrainingPair("x", ("one", "two")),))
    second = PairSet("p", (TrainingPair("x", ("one",), ("two",)),))
    assert first.fingerprint != second.fingerprint == PairSet("other", second.pairs).fingerprint
