import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.manifest import IndexManifest, finished_indexes, read_manifest, write_manifest
from ibkd_retrieval.json_io import decode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "index", shard_size=3)
    return tmp_path / "index"


def edit(folder: Path, **changes: object) -> None:
    value = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(value | changes))


def test_a_manifest_comes_back_as_it_was_written(folder: Path):
    manifest = dataclasses.replace(read_manifest(folder), created="2030-01-01T00:00:00+00:00")
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_keys_of_a_later_minor_change_are_ignored(folder: Path):
    manifest = read_manifest(folder)
    edit(folder, colour="blue")
    assert read_manifest(folder) == manifest


def test_a_newer_format_asks_for_an_upgrade(folder: Path):
    edit(folder, format_version=4, shards="of another kind")
    with pytest.raises(UserError, match=r"format 4.*up to 3: upgrade"):
        read_manifest(folder)
    with pytest.raises(UserError, match="upgrade"):
        build_index(numbered_corpus(5), HashingEncoder(), folder, resume=True)


def test_absent_foreign_and_unfinished_folders_are_told_apart(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="There is no index folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not an index folder"):
        read_manifest(tmp_path)
    (folder / "index.json").unlink()
    with pytest.raises(UserError, match=r"unfinished: finish it with `build_index\(resume=True\)`"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "does not say"),
        ({"document_count": "5"}, "document_count is not of type int"),
        ({"document_count": True}, "document_count is not of type int"),
        ({"document_count": 6}, "not the sum"),
        ({"shards": [{"documents": 5}]}, r"shards\[0\].vectors is missing"),
        ({"files": {"../index.faiss": {"bytes": 1, "sha256": ""}}, "shards": [], "document_count": 0}, "outside"),
        ({"files": {}}, "files has no entry"),
        ({"encoder": None}, "encoder is not of type dict"),
        ({"created": 3}, "created is not of type str"),
    ],
)
def test_a_malformed_manifest_names_the_file_and_the_fault(folder: Path, changes: dict, message: str):
    edit(folder, **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(folder)
    assert str(folder / "index.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_not_json_is_a_user_error(folder: Path, content: bytes):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(UserError, match="not a readable index manifest"):
        read_manifest(folder)


JSON = st.sampled_from([None, True, 0, -1, 1.5, float("nan"), "", "x", [], [None], [{}], {}, {"a": 1}, {"a": {}}])


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(IndexManifest)]), JSON))
def test_json_of_another_shape_is_refused_with_a_value_error(value: dict):
    with pytest.raises(ValueError, match=r"missing|type"):
        decode(IndexManifest, value)


def test_the_newest_index_is_the_one_made_last(tmp_path: Path):
    with pytest.raises(UserError, match=r"build_index\(corpus="):
        finished_indexes(tmp_path / "indexes")[0][0]
    for name in ("b", "a", "deep/er"):
        build_index(numbered_corpus(3), HashingEncoder(), tmp_path / "indexes" / name)
        assert finished_indexes(tmp_path / "indexes")[0][0] == tmp_path / "indexes" / name
    (tmp_path / "indexes" / "deep" / "er" / "index.json").unlink()
    (tmp_path / "indexes" / "z").mkdir()
    (tmp_path / "indexes" / "z" / "index.json").write_text("{}")
    assert finished_indexes(tmp_path / "indexes")[0][0] == tmp_path / "indexes" / "a"
