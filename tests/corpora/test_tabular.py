"""Files of documents and queries."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkd_retrieval.corpora.records import Document, Query
from ibkd_retrieval.corpora.tabular import read_documents, read_queries
from ibkd_retrieval.errors import UserError

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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Document, IDS, TEXTS, TEXTS), min_size=1, max_size=5), st.booleans())
def test_documents_written_as_json_lines_are_read_back(tmp_path_factory, documents, ascii_only):
    lines = [
        json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text}, ensure_ascii=ascii_only) for d in documents
    ]
    path = written(tmp_path_factory.mktemp("jsonl"), "c.jsonl", "\n".join(lines))
    assert list(read_documents(path)) == documents


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Document, IDS, CELLS, CELLS), min_size=1, max_size=5))
def test_documents_written_as_columns_are_read_back(tmp_path_factory, documents):
    content = "".join(f"{d.doc_id}\t{d.title}\t{d.text}\n" for d in documents)
    assert list(read_documents(written(tmp_path_factory.mktemp("tsv"), "c.tsv", content))) == documents


def test_documents_written_as_parquet_are_read_back_over_batch_borders(tmp_path):
    documents = [Document(str(i), f"text {i}", f"title {i}") for i in range(5000)]
    table = pa.table(
        {"id": list(range(5000)), "text": [d.text for d in documents], "title": [d.title for d in documents]}
    )
    pq.write_table(table.append_column("unused", [[0.5] * 5000]), tmp_path / "c.parquet", row_group_size=1500)
    assert list(read_documents(tmp_path / "c.parquet")) == documents


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([".jsonl", ".tsv", ".txt", ".jsonl.gz", ".tsv.zst", ".parquet"]), st.binary(max_size=60))
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
        ("c.jsonl", GOOD + '{"_id": "b c", "text": "x"}\n', "line 2: the id 'b c' holds white space"),
        ("c.jsonl", GOOD + '{"_id": true, "text": "x"}\n', "line 2: the id is True"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": 3}\n', "line 2: the text is int"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": "x", "title": []}\n', "line 2: the title is list"),
        ("c.jsonl", GOOD + '{"_id": "b", "text": "\\ud800"}\n', "line 2: the text holds half of a surrogate"),
        ("c.jsonl", GOOD.encode() + b'{"_id": "b", "text": "\xff"}\n', "line 2: byte 23 of the line is not UTF-8"),
        ("c.tsv", "a\tx\nb\n", "line 2: expected id<TAB>text or id<TAB>title<TAB>text on every line, found 1 column"),
        ("c.tsv", "a\tx\nb\ty\tz\n", "line 2: expected .* on every line, found 3 columns"),
        ("c.tsv", "a b\tx\n", "line 1: the id 'a b' holds white space"),
        ("c.tsv", "\tx\n", "line 1: the id is empty"),
        ("c.jsonl", "", "no documents in "),
        ("c.tsv", "\n\n", "no documents in "),
        ("c.csv", "a,b", "unknown kind of file"),
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
