"""`open_index`: texts, batches and vectors, with the encoder opened when it is needed."""

import numpy as np
import pytest
import yaml

import ibkd_retrieval as ibkd
from helpers.searching import DIM, HashEncoder, indexed, rankings, searcher
from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.records import Document, Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.options import RankerOptions
from ibkd_retrieval.search.searcher import Searcher

DOCUMENTS = [Document(f"d{i}", text, f"title {i}", {"year": 1990 + i}) for i, text in enumerate(sentences(12))]
QUERIES = {"q1": "river bank", "q2": "cup dish"}


@pytest.fixture
def folder(tmp_path):
    indexed(tmp_path / "i", DOCUMENTS)
    return tmp_path / "i"


@pytest.fixture
def index(folder):
    return ibkd.open_index(folder, model=HashEncoder())


def test_a_text_finds_what_the_searcher_finds_and_shows_it(index, tmp_path):
    expected = searcher(tmp_path / "other", DOCUMENTS).search("river bank", 3)
    hits = index.search("river bank", k=3)
    assert list(hits) == expected
    assert (len(hits), hits[0], hits[1:]) == (3, expected[0], tuple(expected[1:]))
    assert repr(hits).splitlines()[0].startswith("<3 of 12 documents in ")
    assert expected[0].doc_id in repr(hits).splitlines()[1]
    table = hits.to_pandas()
    assert list(table.columns) == ["rank", "score", "id", "title", "text", "year"]
    assert table["id"].tolist() == [hit.doc_id for hit in expected]


def test_what_a_document_says_is_no_markup_of_the_notebook(tmp_path):
    indexed(tmp_path / "i", [Document("<b>", "<script>x</script>", "a & b")])
    shown = ibkd.open_index(tmp_path / "i", model=HashEncoder()).search("<i>", k=1)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a &amp; b" in shown
    assert "&lt;b&gt;" in shown


def test_a_batch_takes_queries_of_every_form_and_gives_one_run(index):
    asked = [Query(*each) for each in QUERIES.items()]
    expected = rankings(index.search_batch(asked, k=5))
    for form in (QUERIES, [{"_id": i, "text": text} for i, text in QUERIES.items()], QuerySet("set", tuple(asked))):
        assert rankings(index.search_batch(form, k=5)) == expected
    texts = index.search_batch(list(QUERIES.values()), k=5)
    assert texts.query_ids == ("0", "1")
    assert list(rankings(texts).values()) == list(expected.values())


def test_what_was_built_is_opened(index):
    assert ibkd.open_index(index.describe()).folder == index.folder
    assert ibkd.open_index([index.describe()]).folder == index.folder


def test_vectors_are_searched_without_an_encoder(folder):
    encoder = HashEncoder()
    vectors = encoder.encode(list(QUERIES.values()))
    expected = rankings(Searcher(ibkd.open_index(folder)._stored[0].index, encoder).run(list(QUERIES), vectors, 4))
    index = ibkd.open_index(folder)  # Whose encoder, "tiny", is nowhere.
    assert rankings(index.search_batch(vectors, 4, ids=list(QUERIES))) == expected
    with pytest.raises(UserError, match="tiny"):
        index.search("river")
    for wrong, options in ((vectors[0], {}), (vectors, {"ids": ["one"]})):
        with pytest.raises(UserError, match="shape"):
            index.search_batch(wrong, **options)
    with pytest.raises(UserError, match="appears twice"):
        index.search_batch(vectors, ids=["q", "q"])
    with pytest.raises(UserError, match="leave out `engine`"):
        ibkd.open_index(folder, engine="bm25").search_batch(vectors)


def test_parts_are_searched_as_one_by_vectors_too(tmp_path):
    indexed(tmp_path / "a", DOCUMENTS[:7])
    indexed(tmp_path / "b", DOCUMENTS[5:])
    indexed(tmp_path / "all", DOCUMENTS)
    vectors = HashEncoder().encode(["x", "y"])
    whole = ibkd.open_index(tmp_path / "all").search_batch(vectors, 6)
    parts = ibkd.open_index([tmp_path / "a", tmp_path / "b"])
    assert rankings(parts.search_batch(vectors, 6)) == rankings(whole)
    with pytest.raises(UserError, match="open the one that is to be changed"):
        parts.delete(["d0"])


def test_options_by_name_are_those_of_the_record(folder):
    vectors = np.ones((1, DIM), dtype=np.float32)
    by_name = ibkd.open_index(folder, filters=["year<1993"])
    by_record = ibkd.open_index(folder, config=RankerOptions(filters=("year<1993",)))
    assert by_name.options == by_record.options
    assert sorted(by_name.search_batch(vectors)["0"]) == ["d0", "d1", "d2"]
    with pytest.raises(UserError, match="no option `nprobes`"):
        ibkd.open_index(folder, nprobes=3)
    with pytest.raises(UserError, match="always exact"):
        ibkd.open_index(folder, search_params=ibkd.SearchParams(nprobe=3)).search_batch(vectors)


def test_an_index_is_opened_with_the_weights_that_do_best_on_judged_queries(folder, tmp_path):
    pytest.importorskip("bm25s")
    judged = tmp_path / "judged"
    (judged / "qrels").mkdir(parents=True)
    (judged / "corpus.jsonl").touch()
    lines = [f'{{"_id": "q{i}", "text": "{DOCUMENTS[i].text}"}}' for i in range(6)]
    (judged / "queries.jsonl").write_text("\n".join(lines))
    (judged / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(6)))

    class Dense(HashEncoder):
        """Of no use for these queries, so that words alone do best."""

        def encode(self, texts, kind="document", progress=None):
            return super().encode(["x" for _ in texts] if kind == "query" else texts, kind, progress)

    index = ibkd.open_index(folder, model=Dense(), hybrid="sum", tune=str(judged))
    dense, words = index.options.weights
    assert dense < words
    expected = ibkd.open_index(folder, model=Dense(), hybrid="sum", weights=index.options.weights)
    assert rankings(index.search_batch(QUERIES)) == rankings(expected.search_batch(QUERIES))
    with pytest.raises(UserError, match='`tune` finds the weights of `hybrid="sum"`'):
        ibkd.open_index(folder, model=Dense(), tune=str(judged))


def test_queries_that_are_documents_do_not_find_themselves_unless_asked(index):
    own = QuerySet("own", (Query("d3", DOCUMENTS[3].text),), queries_are_documents=True)
    assert "d3" not in index.search_batch(own, 5)["d3"]
    assert "d3" in index.search_batch(own, 12, exclude_self=False)["d3"]
    assert "d3" in index.search_batch({"d3": DOCUMENTS[3].text}, 12)["d3"]
    assert len(index.search_batch(own, 5)["d3"]) == 5


def test_an_index_grows_and_shrinks(index):
    index.add([Document("new", "a text of its own")])
    assert len(index) == 13
    assert "new" in index.search_batch({"q": "x"}, 13)["q"]
    index.delete(["new", "d0"])
    assert len(index) == 11
    assert not {"new", "d0"} & set(index.search_batch({"q": "x"}, 13)["q"])
    assert index.describe().manifest.deleted_count == 2
    assert "11" in repr(index)
    assert "<table>" in index._repr_html_()


def test_a_run_is_saved_with_what_made_it_and_read_back(index, tmp_path):
    run = index.search_batch(QUERIES, 3)
    assert repr(run) == "<run i: 2 queries, 6 results>"
    assert list(run.to_pandas().columns) == ["query_id", "rank", "doc_id", "score"]
    assert run.to_pandas()["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    run.save(tmp_path / "r.trec")
    assert rankings(ibkd.read_run(tmp_path / "r.trec")) == rankings(run)
    made_by = yaml.safe_load((tmp_path / "r.trec.metadata.yaml").read_text())
    assert made_by["method"]["retrieval"][0] == {
        "name": "dense", "method": "inner product", "device": "auto", "dtype": "auto", "backend": "auto", "k": 3,
        "filters": [], "exclude self": False,
    }  # fmt: skip
    with pytest.raises(KeyError):
        run["no such query"]


def test_a_run_is_scored(index):
    run = index.search_batch(QUERIES, 3)
    first = next(iter(run["q1"]))
    assert ibkd.evaluate(run, {"q1": {first: 1}}, ["mrr@10"])["mrr@10"] == 1.0
