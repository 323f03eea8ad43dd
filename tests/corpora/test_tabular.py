"""Files of documents and queries."""

import datetime
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ibkd_retrieval.corpora.columns import is_header
from ibkd_retrieval.corpora.records import NO_FIELDS, Document, Query
from ibkd_retrieval.corpora.tabular import read_documents, read_queries
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.json_io import parse_fast

IDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=30)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    if name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.jsonl", '{"_id": "a", "title": "T", "text": "x y"}\n\n{"id": 7, "contents": "z"}', ["a T x y", "7  z"]),
        ("c.tsv", "a\tx y\r\n7\tz\n", ["a  x y", "7  z"]),
        ("c.tsv", "a\tT\tx y\n7\t\tz\n", ["a T x y", "7  z"]),
        ("c.txt", "x y\n\nz\n", ["1  x y", "3  z"]),
        ("c.txt", "a\tx y\n7\tz\n", ["a  x y", "7  z"]),
        ("c.jsonl", '\ufeff{"docid": "a", "body": "x"}', ["a  x"]),
    ],
)
def test_documents_are_read_from_every_format_plain_and_compressed(tmp_path, name, content, expected, ending):
    path = written(tmp_path, name + ending, content)
    assert [f"{d.doc_id} {d.title} {d.text}" for d in read_documents(path)] == expected


def test_queries_are_read_under_their_own_names(tmp_path):
    path = written(tmp_path, "q.jsonl", '{"qid": 3, "query": "who"}\n{"_id": "b", "text": "what"}\n')
    assert list(read_queries(path)) == [Query("3", "who"), Query("b", "what")]


@settings(max_examples=60)
@given(st.lists(st.builds(Document, IDS, TEXTS, TEXTS, st.just(NO_FIELDS)), min_size=1, max_size=5), st.booleans())
def test_documents_written_as_json_lines_are_read_back(tmp_path_factory, documents, ascii_only):
    lines = [
        json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text}, ensure_ascii=ascii_only) for d in documents
    ]
    path = written(tmp_path_factory.mktemp("jsonl"), "c.jsonl", "\n".join(lines))
    assert list(read_documents(path)) == documents


@settings(max_examples=60)
@given(st.lists(st.builds(Document, IDS, CELLS, CELLS, st.just(NO_FIELDS)), min_size=1, max_size=5))
def test_documents_written_as_columns_are_read_back(tmp_path_factory, documents):
    assume(not is_header([documents[0].doc_id, documents[0].title, documents[0].text]))
    content = "".join(f"{d.doc_id}\t{d.title}\t{d.text}\n" for d in documents)
    assert list(read_documents(written(tmp_path_factory.mktemp("tsv"), "c.tsv", content))) == documents


def test_documents_written_as_parquet_are_read_back_over_batch_borders(tmp_path):
    documents = [Document(str(i), f"text {i}", f"title {i}") for i in range(5000)]
    table = pa.table(
        {"id": list(range(5000)), "text": [d.text for d in documents], "title": [d.title for d in documents]}
    )
    pq.write_table(table.append_column("unused", [[[0.5]] * 5000]), tmp_path / "c.parquet", row_group_size=1500)
    assert list(read_documents(tmp_path / "c.parquet")) == documents


def test_further_scalars_and_lists_of_a_json_line_and_of_its_metadata_are_fields(tmp_path):
    line = (
        '{"_id": "a", "id": 7, "text": "x", "contents": "y", "year": 1999, "score": 0.5, "open": false, "note": "",'
        ' "gone": null, "tags": ["u"], "more": {"deep": 1}, "odd": NaN, "huge": 1e999,'
        ' "metadata": {"url": "u", "year": 2000, "none": null, "list": [1]}}\n'
    )
    (document,) = read_documents(written(tmp_path, "c.jsonl", line))
    assert document[:3] == ("a", "x", "")
    assert document.fields == {
        "id": 7,
        "contents": "y",
        "year": 1999,
        "score": 0.5,
        "open": False,
        "note": "",
        "url": "u",
        "tags": ["u"],
        "list": [1],
    }
    assert [type(value) for value in document.fields.values()].count(bool) == 1


@pytest.mark.parametrize("more", ["", ', "title": "T"', ', "metadata": {}', ', "title": null, "tags": []'])
def test_documents_without_further_scalars_share_the_empty_fields(tmp_path, more):
    (document,) = read_documents(written(tmp_path, "c.jsonl", f'{{"_id": "a", "text": "x"{more}}}'))
    assert document.fields is NO_FIELDS


SCALARS = st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
OTHERS = st.one_of(st.none(), st.lists(st.integers(), max_size=2), st.just(float("nan")))


@settings(max_examples=60)
@given(st.dictionaries(TEXTS.map("x".__add__), st.one_of(SCALARS, OTHERS), max_size=5), st.booleans())
def test_fields_are_read_back_from_the_line_as_from_its_metadata(tmp_path_factory, entries, nested):
    line = json.dumps({"_id": "a", "text": "t"} | ({"metadata": entries} if nested else entries))
    (document,) = read_documents(written(tmp_path_factory.mktemp("fields"), "c.jsonl", line))
    expected = {name: value for name, value in entries.items() if value != [] and value == value}
    assert document.fields == {name: value for name, value in expected.items() if value is not None}


def test_columns_of_scalars_are_fields_and_other_columns_are_not_read(tmp_path):
    moment = datetime.datetime(2020, 2, 29, 12, 30, 0, 250)
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["x", "y"],
            "year": pa.array([1999, None], pa.int16()),
            "score": [float("nan"), 0.5],
            "open": [True, None],
            "kind": pa.array(["news", "blog"]).dictionary_encode(),
            "day": [datetime.date(2020, 1, 2), None],
            "at": pa.array([moment, None], pa.timestamp("us")),
            "fine": pa.array([1_582_979_400_000_000_001, None], pa.timestamp("ns", "UTC")),
            "vector": [[0.1], [0.2]],
            "raw": [b"\xff", None],
            "metadata": [{"url": "u", "tags": ["t"]}, None],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    first, second = read_documents(tmp_path / "c.parquet")
    assert first.fields == {
        "year": 1999,
        "open": True,
        "kind": "news",
        "day": "2020-01-02",
        "at": "2020-02-29T12:30:00.000250",
        "fine": "2020-02-29T12:30:00+00:00",
        "url": "u",
        "tags": ["t"],
    }
    assert second.fields == {"score": 0.5, "kind": "blog"}


@settings(max_examples=200)
@given(st.sampled_from([".jsonl", ".tsv", ".txt", ".csv", ".jsonl.gz", ".tsv.zst", ".parquet"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_user_error(tmp_path_factory, suffix, content):
    path = tmp_path_factory.mktemp("bytes") / f"c{suffix}"
    path.write_bytes(content)
    for read in (read_documents, read_queries):
        message = str(path)
        try:
            assert list(read(path))
        except UserError as error:
            message = str(error)
        assert str(path) in message


GOOD = '{"_id": "a", "text": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", GOOD + "{oops\n", "line 2: not JSON"),
        ("c.jsonl", GOOD + "[1]\n", "line 2: expected a JSON object"),
        ("c.jsonl", GOOD + '\n{"text": "x"}\n', "line 3: no id; expected it under `_id` or `id`"),
        ("c.jsonl", GOOD + '{"_id": "b"}\n', "line 2: no text; expected it under `text`"),
        ("c.jsonl", GOOD + '{"_id": "", "text": "x"}\n', "line 2: the id is empty"),
        ("c.jsonl", GOOD + '{"_id": "b\\tc", "text": "x"}\n', r"line 2: the id 'b\\tc' holds white space"),
        ("c.jsonl", GOOD + '{"_id": "b  c", "text": "x"}\n', "line 2: the id 'b  c' holds white space"),
        ("c.jsonl", GOOD + '{"_id": true, "text": "x"}\n', "line 2: the id is True"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": 3}\n', "line 2: the text is int"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": "x", "title": []}\n', "line 2: the title is list"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": "\\ud800"}\n', "line 2: the text holds half of a surrogate"),
        (
            "c.jsonl",
            GOOD + '{"_id": "b", "text": "x", "note": "\\ud800"}\n',
            "line 2: the text holds half of a surrogate",
        ),
        ("c.jsonl", GOOD + '{"_id": "b", "text": "x", "\\ud800": 1}\n', "line 2: the text holds half of a surrogate"),
        ("c.jsonl", GOOD.encode() + b'{"_id": "b", "text": "\xff"}\n', "line 2: byte 23 of the line is not UTF-8"),
        ("c.tsv", "a\tx\nb\n", "line 2: expected id<TAB>text or id<TAB>title<TAB>text on every line, found 1 column"),
        ("c.tsv", "a\tx\nb\ty\tz\n", "line 2: expected .* on every line, found 3 columns"),
        ("c.tsv", " a b\tx\n", "line 1: the id ' a b' holds white space"),
        ("c.tsv", "\tx\n", "line 1: the id is empty"),
        ("c.jsonl", "", "no documents in "),
        ("c.tsv", "\n\n", "no documents in .*c.tsv: it is empty, or has only a header or blank lines"),
        ("c.xml", "a,b", "unknown kind of file"),
        ("c.parquet", "PAR1", "cannot be read as parquet"),
    ],
)
def test_a_malformed_line_is_refused_by_file_and_line(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(UserError, match=message) as raised:
        list(read_documents(path))
    assert str(path) in str(raised.value)


def test_a_malformed_parquet_row_is_refused_by_its_number(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", None]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="row 2: the text is NoneType"):
        list(read_documents(tmp_path / "c.parquet"))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_that_ends_early_is_refused_after_its_last_whole_line(tmp_path, ending):
    content = "".join(f'{{"_id": "d{i}", "text": "{i * 7919 % 10007} words"}}\n' for i in range(20_000))
    path = written(tmp_path, f"c.jsonl{ending}", content)
    path.write_bytes(path.read_bytes()[:-2000])
    documents = []
    with pytest.raises(UserError, match="damaged or ends early") as raised:
        documents.extend(read_documents(path))
    assert re.search(r"past line \d+", str(raised.value))


def test_an_empty_query_and_a_query_with_a_title_are_refused(tmp_path):
    with pytest.raises(UserError, match="line 1: the query is empty"):
        list(read_queries(written(tmp_path, "q.tsv", "1\t \n")))
    with pytest.raises(UserError, match="line 1: expected id<TAB>text, found 3 columns"):
        list(read_queries(written(tmp_path, "q.tsv", "1\ta\tb\n")))


def test_a_file_that_cannot_be_opened_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read_documents(tmp_path / "missing.tsv"))


_NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**30, 1e18, 1e19])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(_VALUES, st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(value, escaped):
    line = json.dumps(value, ensure_ascii=escaped)
    assert repr(parse_fast(line)) == repr(json.loads(line))


@pytest.mark.parametrize(
    "line",
    ["", "{", "[1,]", "01", '"\x01"', "{'a': 1}", '{"a": 1} x', "nul", "\ufeff{}", '{"a" 1}', "NaN", "-0", "1e999"],
)
def test_json_that_is_none_is_refused_in_the_words_of_the_standard_library(line):
    def told(parse):
        try:
            return repr(parse(line))
        except ValueError as error:
            return str(error)

    assert told(parse_fast) == told(json.loads)
