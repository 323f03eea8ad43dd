"""Folders written by the first version of the format stay readable, and become of the second where they change."""

import json
from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, corpus_of, numbered_corpus
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index

NEW = {
    "index.json": ("vector_format", "structure", "doc_ids", "tombstones", "deleted_count", "changes"),
    "build.json": ("shard_text", "vector_format"),
    "shards": ("vector_format",),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An index with nothing in its files that the first version did not write."""
    folder = tmp_path / "old"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    for path in folder.rglob("*.json"):
        value = json.loads(path.read_text())
        for key in NEW.get(path.name, NEW["shards"]):
            del value[key]
        if "format_version" in value:
            value["format_version"] = 1
        path.write_text(json.dumps(value))
    return folder


def test_an_old_index_is_read_searched_and_verified(old: Path):
    manifest = verify_index(old)
    assert (manifest.format_version, manifest.vector_format, manifest.rows) == (1, "float32", 25)
    index = open_index(old)
    _, rows = index.search(HashingEncoder().vector("text of document 4")[None], 1)
    assert index.doc_id(rows[0, 0]) == "d4"


def test_an_old_index_is_resumed_without_encoding(old: Path):
    encoder = HashingEncoder()
    (old / "index.json").unlink()
    build_index(numbered_corpus(25), encoder, old, resume=True)
    assert encoder.encoded == []
    assert read_manifest(old).format_version == 1


def test_an_old_index_grows_shrinks_and_is_combined(old: Path, tmp_path: Path):
    append_documents(corpus_of([Document("new", "a new text")]), HashingEncoder(), old)
    manifest = delete_documents(old, ["d3"])
    assert (manifest.format_version, manifest.document_count) == (2, 25)
    combined = combine_indexes([old], tmp_path / "combined")
    assert (combined.format_version, combined.document_count) == (1, 25)
    verify_index(tmp_path / "combined")
