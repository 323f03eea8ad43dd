import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.searching import HashEncoder, indexed
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.shards import document_from_json, fields_from_json, line_of
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.filters import allowed_rows, parse_condition
from ibkd_retrieval.search.searcher import Searcher

SOURCES = ("arxiv", "pubmed")
DOCUMENTS = [
    Document(
        f"d{number}",
        f"text {number}",
        f"page {number}",
        {"year": 1980 + number, "source": SOURCES[number % 2], "open": number % 3 == 0, "day": f"2024-05-{number:02}"}
        | {"tags": ["few"] * (number < 4) + ["even"] * (number % 2 == 0), "pages": [number, number // 10]},
    )
    for number in range(1, 20)
] + [Document("bare", "no fields")]

TEXTS = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(['", "fields": {', ', "fields": {"a": 1}'])
SCALARS = TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False)
FIELDS = st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS, max_size=3), max_size=3)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return indexed(tmp_path_factory.mktemp("filters") / "index", DOCUMENTS)


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (["year>=1990"], lambda d: d.fields["year"] >= 1990),
        (["year>1990", " year < 1995.5 "], lambda d: 1990 < d.fields["year"] < 1995.5),
        (["year<=1985", "source=arxiv"], lambda d: d.fields["year"] <= 1985 and d.fields["source"] == "arxiv"),
        (["source!=arxiv"], lambda d: d.fields["source"] != "arxiv"),
        (["open=True"], lambda d: d.fields["open"]),
        (["day>=2024-05-10"], lambda d: d.fields["day"] >= "2024-05-10"),
        (["tags=even"], lambda d: "even" in d.fields["tags"]),
        (["tags!=even", "tags!=few"], lambda d: not {"even", "few"} & set(d.fields["tags"])),
        (["pages>=18", "pages<2"], lambda d: max(d.fields["pages"]) >= 18 and min(d.fields["pages"]) < 2),
    ],
)
def test_a_condition_keeps_the_documents_that_hold_it_and_no_others(index, filters, passes):
    (mask,) = allowed_rows([index], filters)
    assert mask.tolist() == [bool(document.fields) and passes(document) for document in DOCUMENTS]


def test_ids_and_titles_are_fields_too(index):
    assert np.flatnonzero(allowed_rows([index], ["title=page 3"])[0]).tolist() == [2]
    assert np.flatnonzero(allowed_rows([index], ["id=bare"])[0]).tolist() == [19]
    assert allowed_rows([index], ["title!=page 3", "id!=bare"])[0].sum() == 18


def test_a_file_of_ids_and_a_condition_are_both_held(index, tmp_path):
    (tmp_path / "ids.txt").write_text("d4\n d5 \n\nd6\nunknown\n")
    (mask,) = allowed_rows([index], [f"@{tmp_path / 'ids.txt'}", "source=arxiv"])
    assert [DOCUMENTS[row].doc_id for row in np.flatnonzero(mask)] == ["d4", "d6"]


def test_a_filtered_search_finds_the_best_of_what_passes(index):
    (mask,) = allowed_rows([index], ["source=pubmed"])
    found = Searcher(index, HashEncoder(), allowed=mask).search("question", k=50)
    everything = Searcher(index, HashEncoder()).search("question", k=50)
    assert [hit.doc_id for hit in found] == [
        hit.doc_id for hit in everything if hit.document.fields.get("source") == "pubmed"
    ]


def test_one_of_several_indexes_may_be_left_empty(index, tmp_path):
    other = indexed(tmp_path / "other", [Document("x", "text", "", {"year": 2020})])
    masks = allowed_rows([index, other], ["year=2020"])
    assert [int(mask.sum()) for mask in masks] == [0, 1]


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        (
            ["yaer>1990"],
            r"No document has the field `yaer` .*: the fields are day, id, open, pages, source, tags, title, year\.",
        ),
        (["year>2100"], "No document passes the filter year>2100"),
        (["year>1990", "year<1980"], "No document passes the filter year>1990 and year<1980"),
        (["year>soon"], "compares year, which holds numbers, such as 1981, with 'soon'"),
        (["open=maybe"], "compares open, which holds true or false, with 'maybe'"),
        (["year"], "is no condition: write FIELD"),
        (["=1990"], "is no condition"),
        (["year>="], "is no condition"),
        (["@nowhere.txt"], "nowhere.txt cannot be read"),
    ],
)
def test_a_filter_that_says_nothing_or_leaves_nothing_is_refused(index, filters, sentence):
    with pytest.raises(UserError, match=sentence):
        allowed_rows([index], filters)


def test_an_empty_file_of_ids_is_refused(index, tmp_path):
    (tmp_path / "ids.txt").write_text("\n \n")
    with pytest.raises(UserError, match="lists no document ids"):
        allowed_rows([index], [f"@{tmp_path / 'ids.txt'}"])


def test_a_value_may_hold_what_looks_like_a_comparison():
    condition = parse_condition("title = a<b = c")
    assert (condition.field, condition.comparison, condition.value) == ("title", "=", "a<b = c")


@given(TEXTS, TEXTS, FIELDS)
def test_fields_read_alone_are_those_of_the_document(text, title, fields):
    line = line_of(Document("d", text, title, fields)).decode()
    assert fields_from_json(line) == dict(document_from_json(line).fields) == fields


def test_deleted_documents_pass_no_filter(index):
    before = np.flatnonzero(allowed_rows([index], ["source=arxiv"])[0])
    deleted = index.doc_id(before[0])
    delete_documents(index.folder, [deleted])
    (mask,) = allowed_rows([open_index(index.folder)], ["source=arxiv"])
    assert np.flatnonzero(mask).tolist() == before[1:].tolist()
    with pytest.raises(UserError, match="No document passes"):
        allowed_rows([open_index(index.folder)], [f"id={deleted}"])


@pytest.mark.parametrize("number", [9007199254740992, 9007199254740993])
def test_whole_numbers_are_compared_as_such(number):
    (condition,) = [parse_condition(f"tweet={number}")]
    assert condition.holds(number)
    assert not condition.holds(number + 1)
