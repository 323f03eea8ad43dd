import numpy as np
import pytest

from helpers.searching import rankings, searcher
from helpers.tiny_models import save_plain_transformer, sentences, tokenizer, transformer
from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search import rerank as rerank_module
from ibkd_retrieval.search.rerank import Reranker
from ibkd_retrieval.search.searcher import MergedSearcher, Searcher

TEXTS = sentences(40)
DOCUMENTS = [Document(f"d{number}", text, f"page {number}") for number, text in enumerate(TEXTS)]
QUERIES = [Query(f"q{number}", " ".join(text.split()[:3])) for number, text in enumerate(TEXTS[:7])]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random BERT that classifies pairs into one class."""
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-cross"
    config = transformer().config
    config.num_labels = 1
    config.initializer_range = 0.4
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(model):
    return load_pair_scorer(str(model), device="cpu")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return searcher(tmp_path_factory.mktemp("index") / "index", DOCUMENTS)


def logits(model, pairs):
    """By sentence-transformers' own prediction, one pair at a time."""
    import torch
    from sentence_transformers import CrossEncoder

    reader = CrossEncoder(str(model), device="cpu")
    return [float(reader.predict([pair], activation_fn=torch.nn.Identity(), batch_size=1)[0]) for pair in pairs]


def test_scores_are_those_of_the_model_whatever_the_batches(model):
    pairs = [(query.text, document.content) for query in QUERIES[:3] for document in DOCUMENTS[:9]]
    expected = logits(model, pairs)
    assert np.std(expected) > 0.01
    for batch_tokens in (1, 100, 4096):
        scores = load_pair_scorer(str(model), device="cpu", batch_tokens=batch_tokens).score(pairs)
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_top_is_ordered_by_the_model_and_the_rest_stays_below_in_order(model, dense, monkeypatch):
    monkeypatch.setattr(rerank_module, "QUERY_BLOCK", 3)
    base = rankings(dense.search_batch(QUERIES, k=25))
    reranked = Reranker.load(dense, [dense.index], str(model), depth=10, device="cpu").search_batch(QUERIES, k=25)
    text_of = {document.doc_id: document.content for document in DOCUMENTS}
    for query in QUERIES:
        before = [doc_id for doc_id, _ in base[query.query_id]]
        scores = dict(zip(before[:10], logits(model, [(query.text, text_of[i]) for i in before[:10]]), strict=True))
        found = rankings(reranked)[query.query_id]
        assert [doc_id for doc_id, _ in found] == sorted(before[:10], key=scores.get, reverse=True) + before[10:]
        assert np.diff([score for _, score in found]).max() < 0


@pytest.mark.parametrize(("k", "depth"), [(5, 10), (10, 10), (25, 10), (100, 60)])
def test_one_question_and_a_batch_agree(scorer, dense, k, depth):
    reranker = Reranker(dense, [dense.index], scorer, depth)
    found = rankings(reranker.search_batch(QUERIES, k))
    for query in QUERIES[:3]:
        hits = reranker.search(query.text, k)
        assert [hit.rank for hit in hits] == list(range(1, min(k, 40) + 1))
        assert [hit.doc_id for hit in hits] == [doc_id for doc_id, _ in found[query.query_id]]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in found[query.query_id]], abs=1e-4)


def test_a_batch_over_several_indexes_reads_no_deleted_text_and_else_the_first(tmp_path, scorer):
    newer = [document._replace(text=f"newer {document.text}") for document in DOCUMENTS[:20]]
    first, second = searcher(tmp_path / "first", newer), searcher(tmp_path / "second", DOCUMENTS)
    delete_documents(tmp_path / "second", [document.doc_id for document in DOCUMENTS[:10]])
    second = Searcher(open_index(tmp_path / "second"), second.encoder)
    read = {}

    class Reading:
        name = "reading"

        def score(self, pairs, progress=None):
            read.update((text, query) for query, text in pairs)
            return scorer.score(pairs)

    Reranker(MergedSearcher([first, second]), [first.index, second.index], Reading(), 40).search_batch(QUERIES)
    assert read.keys() == {document.content for document in (*newer, *DOCUMENTS[20:])}
    read.clear()
    Reranker(MergedSearcher([second, first]), [second.index, first.index], Reading(), 40).search_batch(QUERIES)
    assert read.keys() == {document.content for document in (*newer[:10], *DOCUMENTS[10:])}


def test_the_length_read_decides_the_score(model):
    pair = ("river bank", " ".join(TEXTS[:6]))
    short, longer = (load_pair_scorer(str(model), device="cpu", max_length=n).score([pair])[0] for n in (8, 64))
    assert short != longer


def test_no_pairs_have_no_scores(scorer):
    assert scorer.score([]).shape == (0,)


@pytest.mark.parametrize("length", [2, 4096])
def test_a_length_the_model_cannot_read_is_refused(model, length):
    with pytest.raises(UserError, match=f"cannot read {length} tokens: give a length between 8 and 64"):
        load_pair_scorer(str(model), max_length=length)


def test_a_model_that_is_no_cross_encoder_is_refused(tmp_path, dense):
    plain = save_plain_transformer(tmp_path / "plain")
    with pytest.raises(UserError, match="is no cross-encoder with one score"):
        load_pair_scorer(str(plain), device="cpu")
    with pytest.raises(UserError, match="is no model folder"):
        load_pair_scorer(str(tmp_path), device="cpu")


def test_a_depth_below_one_is_refused(dense):
    with pytest.raises(UserError, match="at least 1, not 0"):
        Reranker.load(dense, [dense.index], "never loaded", depth=0)
