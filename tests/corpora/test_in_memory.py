"""Documents, queries and judgements given from Python."""

import doctest

import pandas as pd
import pytest

from ibkd_retrieval.corpora import spec
from ibkd_retrieval.corpora.catalog import descriptions
from ibkd_retrieval.corpora.records import Document, Judgement, Query
from ibkd_retrieval.corpora.spec import open_corpus, open_qrels, open_queries, queries_for
from ibkd_retrieval.errors import UserError

DOCUMENTS = [Document("a", "x", "T", {"year": 1999}), Document("b", "y")]
SAME = [
    DOCUMENTS,
    [{"_id": "a", "title": "T", "text": "x", "year": 1999}, {"id": "b", "contents": "y"}],
    {"a": {"title": "T", "text": "x", "year": 1999}, "b": "y"},
    pd.DataFrame(
        {"id": ["a", "b"], "title": ["T", None], "text": ["x", "y"], "year": pd.array([1999, None], "object")}
    ),
    pd.DataFrame({"id": ["a", "b"], "title": ["T", None], "text": ["x", "y"], "year": [1999, None]}).astype(
        {"title": "string", "year": "Int64"}
    ),
]


@pytest.mark.parametrize("source", SAME, ids=["records", "dicts", "mapping", "pandas", "nullable pandas"])
def test_documents_are_read_alike_in_every_form_and_as_often_as_wanted(source):
    corpus = open_corpus(source)
    assert list(corpus.documents()) == list(corpus.documents()) == DOCUMENTS
    assert corpus.count == 2
    assert corpus.name == open_corpus(DOCUMENTS).name


def test_texts_are_numbered_and_a_generator_is_kept():
    corpus = open_corpus(text for text in ("one", "two"))
    assert list(corpus.documents()) == list(corpus.documents()) == [Document("0", "one"), Document("1", "two")]
    assert list(open_corpus([("a", "T", "x"), ("b", "y")]).documents()) == [Document("a", "x", "T"), Document("b", "y")]


def test_other_documents_have_another_name_and_their_queries_are_asked_for():
    corpus = open_corpus(["one"])
    assert corpus.name != open_corpus(["two"]).name
    with pytest.raises(UserError, match="without queries"):
        queries_for(corpus.name)


@pytest.mark.parametrize(
    "source",
    [
        [Query("q", "who")],
        [("q", "who")],
        {"q": "who"},
        [{"qid": "q", "query": "who"}],
        pd.DataFrame({"qid": ["q"], "query": ["who"]}),
    ],
)
def test_queries_are_read_alike_in_every_form(source):
    asked = open_queries(source)
    assert asked.queries == (Query("q", "who"),)
    assert open_queries(asked) is asked


@pytest.mark.parametrize(
    "source",
    [
        {"q": {"d": 2}},
        [("q", "d", 2)],
        [Judgement("q", "d", 2)],
        [{"query-id": "q", "corpus-id": "d", "score": 2}],
        pd.DataFrame({"query_id": ["q"], "doc_id": ["d"], "relevance": [2]}),
    ],
)
def test_judgements_are_read_alike_in_every_form(source):
    assert open_qrels(source) == (Judgement("q", "d", 2),)


def test_queries_take_judgements_and_lose_those_that_nobody_judged():
    asked = open_queries({"q": "who", "r": "what"}, need_judgements=True, qrels={"q": {"d": 1}})
    assert (asked.queries, asked.judgements) == ((Query("q", "who"),), (Judgement("q", "d", 1),))
    with pytest.raises(UserError, match="without judgements"):
        open_queries(["who"], need_judgements=True)
    with pytest.raises(UserError, match=r"none of the 1 queries .* called 0, and judgements are of q"):
        open_queries(["who"], need_judgements=True, qrels={"q": {"d": 1}})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "holds no documents"),
        (3, "3 is no corpus"),
        (b"x", "is no corpus"),
        ([3], "document 0 is 3: expected a text, a dict"),
        (["x", {"_id": "a"}], "document 1: no text"),
        ([("a\nb", "x")], r"document 0: the id 'a\\nb' holds white space"),
        ([("a", "b", "c", "d")], "expected a text, a dict with an id and a text"),
        ([{"_id": "a", "text": None}], "document 0: the text is NoneType"),
        (["\ud800"], "half of a surrogate"),
    ],
)
def test_what_is_no_document_is_refused_by_its_position(source, message):
    with pytest.raises(UserError, match=message):
        list(open_corpus(source).documents())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"q": 3}, "the judgements of query 'q' are int"),
        ([("q", "d")], "judgement 0 is"),
        ([("q", "d", 0.5)], "the relevance is '0.5'; expected a whole number, or `qrels_threshold`"),
        ([("q", "d", True)], "the relevance is True"),
    ],
)
def test_what_is_no_judgement_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        open_qrels(source)


def test_a_path_object_is_a_path_and_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    assert open_corpus(tmp_path / "c.jsonl").name == str(tmp_path / "c.jsonl")


@pytest.mark.parametrize("name", ["arguana", "Quora"])
def test_a_beir_folder_named_so_says_that_its_queries_are_documents(tmp_path, name):
    for folder in (tmp_path / name, tmp_path / "other"):
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n')
        (folder / "queries.jsonl").write_text('{"_id": "a", "text": "x"}\n')
        (folder / "qrels" / "test.tsv").write_text("a\ta\t1\n")
    assert open_queries(str(tmp_path / name)).queries_are_documents
    assert not open_queries(str(tmp_path / "other")).queries_are_documents


def test_the_examples_in_the_docstrings_run():
    for module in (spec, descriptions):
        assert doctest.testmod(module).failed == 0
