import json
from collections import Counter

import pytest

import ibkd_retrieval as ibkd
from helpers.tiny_models import sentences
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.synthetic import KINDS, synthetic_queries
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.errors import UserError

COMMON = "the heart pumps blood through every vessel of the body at rest"
ROWS = [
    {
        "id": f"d{number}",
        "title": f"Case {number}",
        "text": f"{COMMON}. A second sentence tells of rarity{chr(97 + number)} and of nothing else. Short one.",
    }
    for number in range(20)
]


@pytest.fixture(scope="module")
def corpus():
    return ibkd.open_corpus(ROWS)


def contents(corpus):
    return [document.content for document in corpus.documents()]


def test_queries_of_every_kind_come_from_their_document(corpus):
    made = synthetic_queries(corpus, contents(corpus), 40, seed=0)
    assert {query.kind for query in made} == set(KINDS)
    documents = {document.doc_id: document for document in corpus.documents()}
    for query in made:
        document = documents[query.doc_id]
        if query.kind == "title":
            assert query.text == document.title
        elif query.kind == "keywords":
            assert set(query.text.split()) <= set(document.content.lower().replace(".", "").split())
        else:
            assert query.text in document.text
        assert len(query.text.split()) <= 12 or query.kind == "sentence"
    assert len({query.text for query in made}) == len(made)


def test_keywords_are_the_rare_words(corpus):
    made = [query for query in synthetic_queries(corpus, contents(corpus), 150, seed=0) if query.kind == "keywords"]
    used = Counter((query.doc_id, word) for query in made for word in set(query.text.split()))
    # Of each document's twenty words, ten are ever drawn. The one that no other document has is among them.
    assert sum(word.startswith("rarity") for _, word in used) == 20
    assert max(Counter(doc_id for doc_id, _ in used).values()) <= 10


def test_a_seed_decides_and_only_the_chosen_documents_are_used(corpus):
    chosen = contents(corpus)[:3]
    made = synthetic_queries(corpus, chosen, 5, seed=1)
    assert made == synthetic_queries(corpus, chosen, 5, seed=1) != synthetic_queries(corpus, chosen, 5, seed=2)
    assert {query.doc_id for query in made} == {"d0", "d1", "d2"}


def test_texts_without_titles_sentences_or_words_give_what_they_can():
    odd = ibkd.open_corpus(
        [{"id": "a", "text": "12345"}, {"id": "b", "text": "one two three"}, {"id": "c", "text": "?"}]
    )
    for query in synthetic_queries(odd, contents(odd), 10, seed=0):
        assert query.doc_id == "b"
        assert set(query.text.split()) <= {"one", "two", "three"}
        assert query.text != "one two three"


def test_a_student_learns_from_them_and_its_folder_has_them_as_queries(bert, tmp_path):
    few = {"steps": 2, "batch_size": 16, "bank_size": 8, "max_length": 24, "dtype": "float32", "device": "cpu"}
    docs = [{"id": f"d{number}", "text": text} for number, text in enumerate(sentences(120))]
    student = ibkd.distill(
        teacher=bert, corpus=docs, layers=1, dim=8, synthetic_queries=2, output=tmp_path / "one", cache=tmp_path, **few
    )
    path = student.path / "synthetic-queries.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert rows
    assert rows[0].keys() == {"_id", "text", "doc_id", "kind"}
    documents = {row["doc_id"] for row in rows}
    # Documents that are held out for the dev figure are not learnt from, and give no queries.
    assert len(rows) + len(documents) <= student.record["texts"] < len(rows) + 120
    assert [query.text for query in ibkd.open_queries(str(path)).queries] == [row["text"] for row in rows]
    assert student.config.data.synthetic_queries == 2
    again = ibkd.distill(config=student.config, corpus=docs, output=student.path, overwrite=True, cache=tmp_path)
    assert again.path.joinpath("synthetic-queries.jsonl").read_text("utf-8") == path.read_text("utf-8")


def test_a_number_below_0_or_without_distilling_is_refused():
    with pytest.raises(UserError, match="`synthetic_queries` is -1"):
        decided(DistillConfig().with_parameters(synthetic_queries=-1))
    with pytest.raises(UserError, match="`synthetic_queries`"):
        decided(DistillConfig().with_parameters(stage="finetune", pairs="p", synthetic_queries=2))
