import hashlib
import importlib.util
import json
import math
import re
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest

from ibkd_retrieval.corpora.records import Corpus, Document, Query
from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.lexical import ENGINES, open_lexical
from ibkd_retrieval.search.lexical.bm25 import words_of_document, words_of_query

DOCUMENTS = [
    Document("d0", "Running wings and the wing of a plane", "Wings"),
    Document("d1", "heat transfer in wings"),
    Document("d2", "heat heat heat"),
    Document("d3", ""),
    Document("d4", "the and of"),
    Document("d5", "plane geometry, 42 naïve 😀 heat"),
    Document("d6", "heat transfer in wings"),
]
LUCENE = pytest.param(
    "lucene",
    marks=[
        pytest.mark.lucene,
        pytest.mark.skipif(importlib.util.find_spec("pyserini") is None, reason="Pyserini is not installed"),
    ],
)
BM25 = pytest.param(
    "bm25", marks=pytest.mark.skipif(importlib.util.find_spec("bm25s") is None, reason="bm25s is not installed")
)
both = pytest.mark.parametrize("engine", [BM25, LUCENE])


class Encoder:
    name, max_length, pooling, dtype, device, dim, weight_hash = "tiny", 16, None, "float32", "cpu", 4, "0a"
    prompts = {"query": "", "document": ""}  # noqa: RUF012

    def encode(self, texts, kind="document", progress=None):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        return np.array([np.random.default_rng(seed).standard_normal(4) for seed in seeds], dtype=np.float32)


def make(folder, documents=DOCUMENTS, **options):
    build_index(Corpus("tiny", len(documents), lambda: documents), Encoder(), folder, shard_size=3, **options)
    return open_index(folder)


@pytest.fixture
def index(tmp_path):
    return make(tmp_path / "index")


def found(searcher, text, k=10):
    return [hit.doc_id for hit in searcher.search(text, k)]


def test_scores_are_lucenes_formula_over_stemmed_words(index):
    pytest.importorskip("bm25s")
    stemmer = pytest.importorskip("Stemmer").Stemmer("english")
    stop = {"and", "the", "of", "in"}
    words = [
        [stemmer.stemWord(word) for word in content.split() if word not in stop and len(word) > 1]
        for content in (d.content.lower().replace(",", "").replace("😀", "") for d in DOCUMENTS)
    ]
    average, k1, b = sum(map(len, words)) / len(words), 0.9, 0.4
    expected = Counter()
    for term in (stemmer.stemWord("wings"), "heat", "heat"):
        matches = sum(term in own for own in words)
        idf = math.log(1 + (len(words) - matches + 0.5) / (matches + 0.5))
        for document, own in zip(DOCUMENTS, words, strict=True):
            if count := own.count(term):
                expected[document.doc_id] += idf * count / (count + k1 * (1 - b + b * len(own) / average))
    hits = open_lexical(index).search("Wings heat heat")
    assert {hit.doc_id: pytest.approx(hit.score, rel=1e-6) for hit in hits} == expected
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(hit.document == DOCUMENTS[int(hit.doc_id[1:])] for hit in hits)


@both
def test_ties_are_in_the_order_of_a_run_at_the_cut_as_well(index, engine):
    searcher = open_lexical(index, engine)
    whole = found(searcher, "heat transfer")
    # Anserini breaks ties itself, by ascending id, and lowers the scores accordingly.
    assert whole[:2] == (["d6", "d1"] if engine == "bm25" else ["d1", "d6"])
    for k in range(1, len(whole) + 1):
        assert found(searcher, "heat transfer", k) == whole[:k]


@both
def test_one_search_and_a_batch_agree_and_queries_without_known_words_find_nothing(index, engine):
    searcher = open_lexical(index, engine)
    queries = [Query(f"q{i}", text) for i, text in enumerate(["wing plane", "the of", "", "heat 😀 \ud800", "zebra"])]
    run = searcher.search_batch(queries, 3, tag="mine")
    assert (run.tag, run.query_ids) == ("mine", tuple(f"q{i}" for i in range(5)))
    lists = {query: ids.tolist() for query, ids, _ in run}
    assert lists["q1"] == lists["q2"] == lists["q4"] == []
    assert lists["q0"] == found(searcher, "wing plane", 3)
    assert len(lists["q3"]) == 3
    assert found(searcher, "the of") == []
    assert len(searcher.search_batch([])) == 0
    assert searcher.name == engine


@both
def test_only_allowed_rows_are_found(index, engine):
    everything = found(open_lexical(index, engine), "heat")
    for allowed in ({"d1", "d5"}, {"d0"}, set(), {"d2", "d5", "d6"}):
        mask = np.array([document.doc_id in allowed for document in DOCUMENTS])
        for k in (1, 10):
            expected = [doc_id for doc_id in everything if doc_id in allowed][:k]
            assert found(open_lexical(index, engine, allowed=mask), "heat", k) == expected


@both
def test_it_is_made_once_and_again_where_it_no_longer_fits(index, engine):
    open_lexical(index, engine)
    (made,) = layout.lexical_indexes(index.folder)
    manifest = made / "lexical.json"
    first = manifest.read_bytes()
    open_lexical(index, engine)
    assert manifest.read_bytes() == first
    largest = max((path for path in made.iterdir() if path != manifest), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert found(open_lexical(index, engine), "geometry") == ["d5"]
    assert manifest.read_bytes() != first
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"corpus_fingerprint": "other"}))
    assert found(open_lexical(index, engine), "geometry") == ["d5"]
    assert json.loads(manifest.read_text())["corpus_fingerprint"] == index.manifest.corpus.fingerprint


def test_other_settings_have_a_folder_of_their_own_and_overwriting_removes_all(index):
    pytest.importorskip("bm25s")
    open_lexical(index)
    open_lexical(index, k1=1.2)
    leftover = index.folder / "lexical" / ".bm25-0123456789ab.4194305.tmp"
    leftover.mkdir()
    (index.folder / "lexical" / "notes").mkdir()
    assert len(layout.lexical_indexes(index.folder)) == 3
    changed = make(index.folder, [Document("x", "other words")], overwrite=True)
    assert [path.name for path in (index.folder / "lexical").iterdir()] == ["notes"]
    assert found(open_lexical(changed), "words heat") == ["x"]


def test_a_build_that_fails_leaves_nothing(index, monkeypatch):
    bm25s = pytest.importorskip("bm25s")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bm25s.BM25, "save", full)
    with pytest.raises(OSError, match="No space"):
        open_lexical(index)
    assert list((index.folder / "lexical").iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (
            ["仓库在星期天关门。", "这台打印机需要更换墨盒。", "河边的小船"],
            ["打印机墨盒", "盒", "打印機墨盒"],
        ),
        (
            ["倉庫は日曜日に休みます。", "インクカートリッジの交換", "川"],
            ["インクカートリッジ", "ｲﾝｸｶｰﾄﾘｯｼﾞ"],
        ),
        (["창고는 일요일에 쉽니다.", "이 프린터는 잉크를 갈아야 합니다.", "강가의 배"], ["잉크", "프린터"]),
        (["โกดังปิดวันอาทิตย์", "เครื่องพิมพ์นี้ต้องเปลี่ยนหมึก", "เรือริมแม่น้ำ"], ["เปลี่ยนหมึก"]),
        (["गोदाम रविवार को बंद है", "प्रिंटर की स्याही बदलें", "नदी किनारे नाव"], ["स्याही"]),
        (["the store", "cafe\u0301 au lait", "river"], ["café", "cafe\u0301", "ＣＡＦÉ"]),
    ],
    ids=["Chinese", "Japanese", "Korean", "Thai", "Hindi", "accents"],
)
def test_a_word_is_found_in_scripts_without_spaces_and_in_either_spelling(tmp_path, texts, asked):
    pytest.importorskip("bm25s")
    index = make(tmp_path / "index", [Document(f"d{place}", text) for place, text in enumerate(texts)])
    searcher = open_lexical(index)
    for text in asked:
        assert found(searcher, text)[:1] == ["d1"]


def test_words_of_spaced_scripts_are_runs_of_letters_and_digits():
    for text in ("A b cd", "naïve, 42 Straße_x", "Ελληνικά и русский", "x²", "a\u0301b"):
        normal = unicodedata.normalize("NFKC", text.lower())
        assert words_of_document(text) == words_of_query(text) == re.findall(r"\b\w\w+\b", normal)
    assert words_of_document("a河边b 水") == ["河", "边", "河边", "水"]
    assert words_of_query("a河边b 水") == ["河边", "水"]


def test_an_index_by_an_earlier_way_to_make_words_is_replaced(index):
    pytest.importorskip("bm25s")
    open_lexical(index)
    (made,) = layout.lexical_indexes(index.folder)
    manifest = json.loads((made / "lexical.json").read_text())
    assert manifest["settings"].pop("words") == "nfkc, bigrams of unspaced scripts"
    older = made.with_name("bm25-0123456789ab")
    made.rename(older)
    (older / "lexical.json").write_text(json.dumps(manifest))
    assert found(open_lexical(index), "geometry") == ["d5"]
    assert layout.lexical_indexes(index.folder) == [made]


def test_without_a_stemmer_words_are_taken_as_they_are(index, monkeypatch):
    pytest.importorskip("bm25s")
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    searcher = open_lexical(index)
    assert found(searcher, "wing") == ["d0"]
    assert set(found(searcher, "the")) == {"d0", "d4"}


def test_wrong_input_is_refused_in_one_sentence(index, tmp_path, monkeypatch):
    pytest.importorskip("bm25s")
    assert ENGINES == ("bm25", "lucene")
    for options, message in (
        ({"engine": "elastic"}, "no lexical engine 'elastic': choose one of bm25, lucene"),
        ({"k1": -1}, "k1 must be a number of at least 0, not -1"),
        ({"b": 2}, "b must lie between 0 and 1, not 2"),
    ):
        with pytest.raises(UserError, match=message):
            open_lexical(index, **options)
    searcher = open_lexical(index)
    with pytest.raises(UserError, match="The query is empty"):
        searcher.search(" ")
    with pytest.raises(UserError, match="at least 1, not 0"):
        searcher.search("heat", 0)
    with pytest.raises(UserError, match="Query q appears twice"):
        searcher.search_batch([Query("q", "a"), Query("q", "b")])
    with pytest.raises(UserError, match="stores no text"):
        open_lexical(make(tmp_path / "blank", [Document("a", ""), Document("b", " ")]))
    blocked = make(tmp_path / "blocked")
    (blocked.folder / "lexical").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot be written"):
        open_lexical(blocked)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ibkd-retrieval\[bm25\]'"):
        open_lexical(index)
    monkeypatch.setitem(sys.modules, "jnius_config", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ibkd-retrieval\[pyserini\]'"):
        open_lexical(index, "lucene")


@both
def test_deleted_documents_are_not_found_by_words_and_a_document_of_the_same_id_is(tmp_path, engine):
    make(tmp_path / "index")
    delete_documents(tmp_path / "index", ["d2"])
    left = open_index(tmp_path / "index")
    assert "d2" not in found(open_lexical(left, engine), "heat")
    allowed = np.array([True, False, True, True, True, True, True])
    assert set(found(open_lexical(left, engine, allowed=allowed), "heat")) == {"d5", "d6"}
    again = Corpus("again", 1, lambda: [Document("d2", "heat returns")])
    append_documents(again, Encoder(), tmp_path / "index")
    grown = open_index(tmp_path / "index")
    hits = {hit.doc_id: hit.document for hit in open_lexical(grown, engine).search("heat")}
    assert hits["d2"].text == "heat returns"
    assert set(hits) == {"d1", "d2", "d5", "d6"}
