import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.format.lines import LineStore, offsets_path, write_lines
from ibkd_retrieval.indexing.format.shards import line_of

LINES = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), max_size=30)


@given(LINES)
def test_every_line_comes_back_at_its_number_and_in_order(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "file"
    assert write_lines(path, iter(lines)) == len(lines)
    store = LineStore(path)
    assert len(store) == len(lines)
    assert [store[i] for i in range(len(store))] == lines
    assert list(store) == lines
    assert path.read_bytes() == "".join(line + "\n" for line in lines).encode()


def test_a_line_feed_inside_a_line_is_refused_and_leaves_no_file(tmp_path: Path):
    with pytest.raises(ValueError, match="line feed"):
        write_lines(tmp_path / "file", ["fine", "not\nfine"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [-1, 2])
def test_a_line_number_out_of_range_is_an_index_error(tmp_path: Path, line: int):
    write_lines(tmp_path / "file", ["a", "b"])
    with pytest.raises(IndexError):
        LineStore(tmp_path / "file")[line]


def test_a_store_goes_on_with_its_own_lines_after_the_file_was_replaced(tmp_path: Path):
    write_lines(tmp_path / "file", ["a", "b"])
    store = LineStore(tmp_path / "file")
    write_lines(tmp_path / "file", ["another", "index"])
    assert list(store) == [store[0], store[1]] == ["a", "b"]


def test_offsets_of_another_file_are_a_user_error(tmp_path: Path):
    write_lines(tmp_path / "file", ["a", "b"])
    with open(tmp_path / "file", "ab") as file:
        file.write(b"more\n")
    with pytest.raises(UserError, match="offsets belong to another file"):
        LineStore(tmp_path / "file")


def test_missing_truncated_and_pickled_offsets_are_a_user_error(tmp_path: Path):
    path = tmp_path / "file"
    write_lines(path, ["a", "b"])
    whole = offsets_path(path).read_bytes()
    for damage in (whole[:20], b"", whole[:-3]):
        offsets_path(path).write_bytes(damage)
        with pytest.raises(UserError, match="damaged"):
            LineStore(path)
    np.save(offsets_path(path), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        LineStore(path)
    offsets_path(path).unlink()
    with pytest.raises(UserError, match="damaged"):
        LineStore(path)


@given(st.text(), st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.floats()))
def test_a_stored_document_is_what_json_writes_of_it_without_escapes_where_it_has_utf8(doc_id, title, text, fields):
    value = {"id": doc_id, "title": title, "text": text} | ({"fields": fields} if fields else {})
    line = json.dumps(value, ensure_ascii=False)
    try:
        due = line.encode()
    except UnicodeEncodeError:
        due = json.dumps(value).encode()
    assert line_of(Document(doc_id, text, title, fields)) == due
