import json
import math

import numpy as np
import pytest

from ibkd_retrieval.corpora.records import QuerySet
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.compare.plan import ComparedIndex, plan_systems
from ibkd_retrieval.evaluation.compare.queries import document_questions
from ibkd_retrieval.evaluation.compare.rankings import ComparedData
from ibkd_retrieval.evaluation.compare.report import read_comparison
from ibkd_retrieval.evaluation.compare.sweep import Sweep
from ibkd_retrieval.evaluation.compare.systems import Measuring, compare_systems
from ibkd_retrieval.evaluation.judge import OPINION, judge_runs, open_judge
from ibkd_retrieval.evaluation.report.write import comparison_as_html, comparison_as_markdown
from ibkd_retrieval.search.runs import Run

TEXTS = {"d1": "wild river", "d2": "old stone house", "d3": "a green river", "d4": "music of the night"}
QUERIES = {"q1": "green river", "q2": "night music", "q3": "nothing is found for this"}
RUNS = {
    "one": Run.from_lists(["q1", "q2"], [["d1", "d3"], ["d4"]], [[2.0, 1.0], [1.0]], "one"),
    "other": Run.from_lists(["q1", "q2"], [["d2", "d1", "d3"], ["d1"]], [[3.0, 2.0, 1.0], [1.0]], "other"),
}


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification

    from helpers.tiny_models import tokenizer

    folder = tmp_path_factory.mktemp("judge") / "cross-encoder"
    read = tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(vocab_size=len(read), num_labels=1, **shape)).save_pretrained(folder)
    read.save_pretrained(folder)
    return folder


def expected(grades):
    """nDCG@10 of each run from the grades of its pool, by the formula."""

    def dcg(gains):
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))

    found = {}
    for name, run in RUNS.items():
        values = []
        for query_id in QUERIES:
            ranked = list(run[query_id]) if query_id in run.query_ids else []
            ideal = dcg(sorted(grades[query_id].values(), reverse=True)) if grades[query_id] else 0
            values.append(dcg([grades[query_id][doc_id] for doc_id in ranked]) / ideal if ideal else 0.0)
        found[name] = values
    return found


def pool(query_id):
    return sorted({doc_id for run in RUNS.values() if query_id in run.query_ids for doc_id in run[query_id]})


def test_a_cross_encoder_grades_by_the_probability_of_relevance(cross_encoder):
    judge = open_judge(str(cross_encoder), device="cpu")
    assert (judge.name, judge.kind) == ("cross-encoder", "cross-encoder")
    found = judge_runs(judge, QUERIES, RUNS, TEXTS.__getitem__)
    scorer = load_pair_scorer(str(cross_encoder), device="cpu")
    grades = {
        query_id: {doc_id: 1 / (1 + math.exp(-scorer.score([(text, TEXTS[doc_id])])[0])) for doc_id in pool(query_id)}
        for query_id, text in QUERIES.items()
    }
    for name, values in expected(grades).items():
        np.testing.assert_allclose(found[name].per_query[OPINION], values, atol=1e-5)
        assert found[name].scores[OPINION] == pytest.approx(np.mean(values), abs=1e-5)
        assert found[name].missing == 1


def test_an_encoder_grades_by_cosines_scaled_in_the_pool_of_each_query(world):
    encoder = world.encoders["teacher"]
    judge = open_judge(encoder)
    assert judge.kind == "encoder"
    found = judge_runs(judge, QUERIES, RUNS, TEXTS.__getitem__)
    grades = {}
    for query_id, text in QUERIES.items():
        ids = pool(query_id)
        cosines = (encoder.encode([TEXTS[each] for each in ids]) @ encoder.encode([text], "query")[0]) if ids else []
        low, high = (min(cosines), max(cosines)) if ids else (0, 0)
        grades[query_id] = {each: float((c - low) / (high - low)) for each, c in zip(ids, cosines, strict=True)}
    for name, values in expected(grades).items():
        np.testing.assert_allclose(found[name].per_query[OPINION], values, atol=1e-4)


def test_a_judge_needs_queries_and_a_model_that_exists(cross_encoder, tmp_path):
    with pytest.raises(UserError, match="no queries"):
        judge_runs(open_judge(str(cross_encoder), device="cpu"), {}, RUNS, TEXTS.__getitem__)
    with pytest.raises(UserError, match="No model at"):
        open_judge(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def opinion(world, cross_encoder):
    searchers = {name: world.searcher(f"{name}-flat") for name in ("teacher", "student")}
    quick = Measuring(rounds=1, latency_queries=2, batch=4, throughput_documents=0, memory_queries=0)
    data = ComparedData("pages", world.queries, searchers)
    judge = open_judge(str(cross_encoder), device="cpu")
    return data, judge, compare_systems([data], ["ndcg@10"], quick, judge=judge, command="ibkd compare")


def test_an_opinion_is_told_apart_from_judgements_in_every_form(opinion, tmp_path):
    data, judge, report = opinion
    assert (report.judge.name, report.judge.kind) == ("cross-encoder", "cross-encoder")
    results = report.data_sets[0].systems
    assert results["teacher"].opinion.contrast is None
    runs = {name: each.search_batch(data.used_queries, 10) for name, each in data.searchers.items()}
    texts = {document.doc_id: document.content for document in data.searchers["teacher"].index.documents()}
    asked = {query.query_id: query.text for query in data.used_queries}
    again = judge_runs(judge, asked, runs, texts.__getitem__)
    for name, result in results.items():
        assert result.opinion.score.mean == pytest.approx(again[name].scores[OPINION])
        assert report.judge.averages[name].mean == result.opinion.score.mean
    # What people judged is as it is without a model.
    assert set(report.averages["student"]) == set(results["student"].scores) == {"ndcg@10"}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.to_json()))
    assert read_comparison(path) == report
    said = "Opinion of the model cross-encoder (cross-encoder) on the first ten results. No person judged"
    assert said in comparison_as_markdown(report).replace("\\", "")
    pytest.importorskip("matplotlib")
    assert said in comparison_as_html(report)


def test_questions_are_titles_or_first_sentences_of_documents_spread_over_the_corpus(world, tmp_path):
    from ibkd_retrieval.corpora.records import Corpus, Document
    from ibkd_retrieval.indexing.build import build_index

    documents = [
        Document("a", "It is long. And more.", "A title of words"),
        Document("b", "The first sentence is this one! Another one.", "Short"),
        Document("c", "", ""),
        Document("d", "The first sentence is this one! Yet another.", ""),
        Document("e", "no end " * 100, ""),
    ]
    build_index(Corpus("few", 5, lambda: iter(documents)), world.encoders["student"], tmp_path / "few")
    (corpus,) = plan_systems([ComparedIndex(tmp_path / "few")], Sweep())
    asked = document_questions(corpus)
    assert isinstance(asked, QuerySet)
    assert [(query.query_id, query.text) for query in asked.queries] == [
        ("a", "A title of words"),
        ("b", "The first sentence is this one!"),
        ("e", " ".join(["no end"] * 20)),
    ]
    assert asked.queries_are_documents
    assert not asked.judgements
    (pages,) = plan_systems([ComparedIndex(world.folder / "teacher-flat")], Sweep())
    ids = [int(query.query_id[1:]) for query in document_questions(pages, most=11).queries]
    assert ids == list(range(0, 1100, 100)) or len(ids) < 11
    # 700 of 1,100 are no multiple, and still reach the end of the corpus.
    many = [int(query.query_id[1:]) for query in document_questions(pages, most=700).queries]
    assert max(many) >= 1090
