import pytest

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.search.hits import hit_as_json, moves, overlap
from ibkd_retrieval.search.runs import Hit


def hits(doc_ids):
    return [Hit(rank, 1 - rank / 100, doc_id, None) for rank, doc_id in enumerate(doc_ids, 1)]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [("abcd", "abcd", (4, 1.0)), ("abcd", "cxya", (4, 0.5)), ("abc", "", (3, 0.0)), ("", "", (1, 0.0))],
)
def test_overlap_is_the_share_of_documents_in_both(left, right, expected):
    assert overlap(hits(left), hits(right)) == expected


def test_overlap_looks_at_ten():
    many = [f"d{i}" for i in range(30)]
    assert overlap(hits(many), hits(many[5:])) == (10, 0.5)


def test_moves_count_the_ranks_that_a_document_rose():
    assert moves(hits("abcd"), hits("cbxa")) == [2, 0, None, -3]
    assert moves([], hits("a")) == [None]


def test_a_hit_shows_its_fields_where_it_has_any_and_no_text_where_none_is_stored():
    bare = {"rank": 1, "score": 0.5, "id": "a", "title": "", "text": ""}
    assert hit_as_json(Hit(1, 0.5, "a", None)) == bare
    document = Document("a", "long", "short", {"year": 1990})
    assert hit_as_json(Hit(1, 0.5, "a", document)) == bare | {
        "title": "short",
        "text": "long",
        "fields": {"year": 1990},
    }
