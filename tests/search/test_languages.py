"""Words, stop words, snippets and sentences in other languages than English."""

import sys

import numpy as np
import pytest

from helpers.searching import indexed
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.corpora.words import in_words
from ibkd_retrieval.distill.data.synthetic import KINDS, _query
from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.evaluation.compare.queries import _question
from ibkd_retrieval.indexing.format import layout
from ibkd_retrieval.search.hits import snippet
from ibkd_retrieval.search.lexical import open_lexical
from ibkd_retrieval.search.options import RankerOptions, check_ranking

TEXTS = {
    "german": ["Die Katze schläft.", "Alte Häuser stehen am Fluss.", "Der Zug fährt nach Berlin."],
    "chinese": ["仓库在星期天关门。", "这台打印机需要更换墨盒。", "河边的小船。"],
    "arabic": ["القطة نائمة.", "الكتب القديمة في المكتبة.", "القطار يذهب إلى المدينة."],
    "hindi": ["बिल्ली सो रही है।", "लड़कियाँ स्कूल जाती हैं।", "ट्रेन शहर जाएगी।"],
    "thai": ["โกดังปิดวันอาทิตย์", "เครื่องพิมพ์นี้ต้องเปลี่ยนหมึก", "เรือริมแม่น้ำ"],
}
ASKED = {  # Another form of a word of the second text.
    "german": ["Haus", "des Hauses", "Flusses"],
    "chinese": ["打印机", "更换"],
    "arabic": ["كتاب قديم", "المكتبات"],
    "hindi": ["लड़की", "लड़कियों"],
    "thai": ["หมึก", "เครื่องพิมพ์"],
}
LIBRARIES = {"chinese": "rjieba", "thai": "pythainlp"}


def index_of(folder, language):
    return indexed(folder, [Document(f"d{place}", text) for place, text in enumerate(TEXTS[language])])


@pytest.mark.parametrize("language", TEXTS)
def test_a_word_is_found_in_another_form_of_it(tmp_path, language):
    pytest.importorskip("bm25s")
    pytest.importorskip(LIBRARIES.get(language, "Stemmer"))
    searcher = open_lexical(index_of(tmp_path / "index", language), language=language)
    for text in ASKED[language]:
        assert [hit.doc_id for hit in searcher.search(text)] == ["d1"]
    with pytest.raises(UserError, match="reads English"):
        open_lexical(index_of(tmp_path / "other", language), "lucene", language=language)


def test_stop_words_are_those_of_the_language(tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    index = index_of(tmp_path / "index", "german")
    assert [hit.doc_id for hit in open_lexical(index, language="de").search("der die am nach")] == []
    assert len(open_lexical(index, language="none").search("der die am nach")) == 3
    assert len(layout.lexical_indexes(index.folder)) == 2


def test_chinese_is_cut_into_words_and_not_into_pairs(tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("rjieba")
    index = indexed(tmp_path / "index", [Document("a", "北京大学生活动中心"), Document("b", "打印机和墨盒")])
    assert [hit.doc_id for hit in open_lexical(index).search("印机")] == ["b"]
    assert [hit.doc_id for hit in open_lexical(index, language="zh").search("机和")] == []
    assert [hit.doc_id for hit in open_lexical(index, language="zh").search("墨盒")] == ["b"]


def test_an_unknown_language_and_a_missing_library_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("bm25s")
    index = index_of(tmp_path / "index", "thai")
    with pytest.raises(UserError, match=r"no `language` 'klingon' for words: use arabic, .*, yiddish or none"):
        open_lexical(index, language="klingon")
    with pytest.raises(UserError, match='`language` is that of words: give `engine="bm25"` or `hybrid`'):
        check_ranking(RankerOptions(language="de"))
    check_ranking(RankerOptions(language="de", hybrid="rrf"))
    monkeypatch.setitem(sys.modules, "pythainlp.tokenize", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ibkd-retrieval\[languages\]'"):
        open_lexical(index, language="thai")
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(MissingPackage, match=r"BM25 search in German.*pip install 'ibkd-retrieval\[bm25\]'"):
        open_lexical(index, language="german")


@pytest.mark.parametrize(
    ("text", "query", "shown"),
    [
        ("这台打印机需要更换墨盒。", "墨盒在哪里？打印机", ["打印机", "墨盒"]),
        ("Der Zug fährt über die Brücke.", "Brücke", ["Brücke"]),
        ("الكتب القديمة في المكتبة", "المكتبة", ["المكتبة"]),
        ("लड़कियाँ स्कूल जाती हैं।", "स्कूल", ["स्कूल"]),
        ("เครื่องพิมพ์นี้ต้องเปลี่ยนหมึก", "หมึก", ["หมึก"]),
        ("水は河を流れる", "河", ["河"]),
        ("他在河边的船上，河很长", "河 河边", ["河边", "河"]),
    ],
    ids=["Chinese", "German", "Arabic", "Hindi", "Thai", "Japanese", "a character and a pair that begins with it"],
)
def test_a_snippet_marks_the_words_of_the_query(text, query, shown):
    result = snippet(Document("d", text), query)
    assert [result.text[start:end] for start, end in result.matches] == shown


def test_a_snippet_of_a_script_without_spaces_has_text_on_both_sides_of_its_match():
    filler = "河边的小船在星期天不开，" * 30
    result = snippet(Document("d", f"{filler}这台打印机需要更换墨盒。{filler}"), "墨盒", width=60)
    ((start, end),) = result.matches
    assert result.text[start:end] == "墨盒"
    assert 10 < start < 40
    assert 50 < len(result.text) <= 60


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("今天天气很好。我们去河边看船。", "今天天气很好。"),
        ("لماذا؟ لأن القطار تأخر.", "لماذا؟"),
        ("बिल्ली सो रही है। ट्रेन आई।", "बिल्ली सो रही है।"),
        ("Der Zug fährt. Die Katze schläft.", "Der Zug fährt."),
        ("โกดังปิดวันอาทิตย์ เรือริมแม่น้ำ", "โกดังปิดวันอาทิตย์"),
        ("水" * 200, "水" * 80),
    ],
    ids=["Chinese", "Arabic", "Hindi", "German", "Thai", "without an end"],
)
def test_the_first_sentence_of_a_document_is_its_question(text, first):
    assert _question(Document("d", text)) == first


def test_synthetic_queries_of_scripts_without_spaces_are_parts_of_the_document():
    document = Document("d", "今天天气很好，我们去河边看船。这台打印机需要更换墨盒。仓库在星期天关门。" * 3)
    generator = np.random.default_rng(0)
    for kind in KINDS:
        for _ in range(10):
            text, _ = _query(kind, document, {}, 1, generator) if kind != "keywords" else ("今天", kind)
            assert text in document.text
            assert 2 <= len(text) <= 64
    assert "".join(in_words(document.text)).strip() == document.text
