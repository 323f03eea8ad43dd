from collections import Counter

import pytest

from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
from ibkd_retrieval.distill.data.texts import gather_texts
from ibkd_retrieval.distill.dev_metric import JudgedDev, judged_dev, neighbour_dev
from ibkd_retrieval.errors import UserError

TEXTS = sentences(200, seed=4)


def corpus(texts=TEXTS):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    return Corpus("c", len(documents), lambda: documents)


def queries(relevance=1, level=1):
    asked = tuple(Query(f"q{i}", " ".join(TEXTS[i].split()[:3]) + f" ask {i}") for i in range(12))
    return QuerySet("q", asked, tuple(Judgement(f"q{i}", f"d{i}", relevance) for i in range(12)), level)


def test_texts_are_taken_once_without_empty_ones():
    found = gather_texts(corpus(["a", " a ", "", "  ", "b"]), QuerySet("q", (Query("1", "b"), Query("2", "b "))))
    assert found.documents == ("a", "b")
    assert found.queries == ("b",)


def test_held_out_texts_stay_out_whatever_white_space_is_around_them():
    found = gather_texts(corpus(["a ", "b"]), QuerySet("q", (Query("1", "a"),)), exclude=["\na "])
    assert found.documents == ("b",)
    assert found.queries == ()


def test_a_limit_draws_from_the_whole_corpus_by_the_seed():
    drawn = [gather_texts(corpus(), None, limit=50, seed=seed).documents for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 50
    assert set(drawn[0]) - set(TEXTS[:50])


def test_nothing_to_learn_from_is_a_user_error():
    with pytest.raises(UserError, match="No text to learn from"):
        gather_texts(corpus(["", "x"]), None, exclude=["x"])
    with pytest.raises(UserError, match="`max_documents`"):
        gather_texts(corpus(), None, limit=0)


def test_fingerprints_follow_texts_order_and_kind():
    one, other, asked = (
        gather_texts(corpus(texts), QuerySet("q", tuple(Query(t, t) for t in more))).fingerprint
        for texts, more in ((["a", "b"], ()), (["b", "a"], ()), (["a"], ("b",)))
    )
    assert len({one, other, asked}) == 3


def test_a_judged_dev_set_holds_its_answers_and_keeps_its_texts_out_of_training():
    dev = judged_dev(corpus(), queries(), most_queries=8, most_documents=30, seed=0)
    assert isinstance(dev, JudgedDev)
    assert (len(dev.queries), len(dev.documents)) == (8, 30)
    assert {j.doc_id for j in dev.judgements} <= {document.doc_id for document in dev.documents}
    trained = gather_texts(corpus(), queries(), exclude=dev.texts)
    assert not set(dev.texts) & {*trained.documents, *trained.queries}
    assert len(dev.texts) == 16


def test_a_judged_dev_set_scores_one_where_queries_are_their_answers_and_heeds_the_relevance_level(teacher):
    asked = tuple(Query(f"q{i}", TEXTS[i]) for i in range(6))
    judged = tuple(Judgement(f"q{i}", f"d{i}", 1) for i in range(6))
    assert JudgedDev(asked, tuple(corpus().documents()), judged).score(teacher) == pytest.approx(1)
    one_better = (Judgement("q0", "d0", 2), *judged[1:])
    assert JudgedDev(asked, tuple(corpus().documents()), one_better, 2).score(teacher) == pytest.approx(1 / 6)
    graded = queries(relevance=2, level=2)
    assert judged_dev(corpus(), graded, most_queries=3, most_documents=9, seed=0).relevance_level == 2


def test_a_judged_dev_set_without_answers_in_the_corpus_is_refused():
    with pytest.raises(UserError, match="No query of q has a relevant document in c"):
        judged_dev(corpus(["other"]), QuerySet("q", (Query("1", "x"),), ()), most_queries=3, most_documents=9, seed=0)


def test_a_document_judged_irrelevant_is_no_answer():
    judged = (Judgement("1", "gone", 1), Judgement("1", "d0", 0))
    with pytest.raises(UserError, match="No query of q has a relevant document in c"):
        judged_dev(
            corpus(["other"]), QuerySet("q", (Query("1", "x"),), judged), most_queries=3, most_documents=9, seed=0
        )


def test_a_dev_set_is_no_larger_than_asked_for_however_many_documents_were_judged():
    judged = tuple(Judgement("q0", f"d{i}", int(i in (3, 150, 199))) for i in range(200))
    asked = QuerySet("q", (Query("q0", "x"),), judged)
    dev = judged_dev(corpus(), asked, most_queries=1, most_documents=20, seed=0)
    found = {document.doc_id for document in dev.documents}
    assert len(found) == 20
    assert {"d3", "d150", "d199"} < found


def test_the_documents_around_the_answers_are_drawn_from_all_alike():
    # 200 documents, 12 relevant, 40 taken: each of the other 188 is taken with a chance of 28 in 188.
    draws = 400
    taken = Counter(
        document.doc_id
        for seed in range(draws)
        for document in judged_dev(corpus(), queries(), most_queries=12, most_documents=40, seed=seed).documents
    )
    chance = 28 / 188
    deviation = (draws * chance * (1 - chance)) ** 0.5
    assert all(taken[f"d{i}"] == draws for i in range(12))
    assert all(abs(taken[f"d{i}"] - draws * chance) < 5 * deviation for i in range(12, 200))


def test_the_teacher_finds_all_its_own_neighbours(teacher):
    dev = neighbour_dev(tuple(TEXTS), teacher, size=60, seed=0)
    assert dev.score(teacher) == 1.0
    assert len(set(dev.texts)) == len(dev.texts) == 40


def test_too_few_texts_to_hold_any_out_is_a_user_error(teacher):
    with pytest.raises(UserError, match="too few to hold out"):
        neighbour_dev(tuple(TEXTS[:99]), teacher, size=500, seed=0)
