import os
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import (
    HashingEncoder,
    Listener,
    TableEncoder,
    clustered,
    corpus_of,
    numbered_corpus,
    table_corpus,
)
from helpers.killing import killed_at_rename
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.index import open_index


def documents(prefix: str, count: int) -> list[Document]:
    return [Document(f"{prefix}{i}", f"{prefix} text {i}") for i in range(count)]


def test_another_structure_takes_its_shards_as_links_and_nothing_is_encoded(tmp_path: Path):
    table = clustered(1500, 16)
    build_index(table_corpus(1500), TableEncoder(table), tmp_path / "flat", shard_size=500)
    manifest = combine_indexes([tmp_path / "flat"], tmp_path / "small", family="ivf-pq")
    assert manifest.family == "ivf-pq"
    for number in range(3):
        name = f"vectors/0000{number}.npy"
        assert os.path.samefile(tmp_path / "flat" / name, tmp_path / "small" / name)
    assert manifest.corpus == open_index(tmp_path / "flat").manifest.corpus
    encoder, listener = TableEncoder(table), Listener()
    again = build_index(
        table_corpus(1500), encoder, tmp_path / "small", family="ivf-pq", resume=True, progress=listener
    )
    assert encoder.encoded == []
    assert again == manifest
    assert "nothing was left to do" in listener.said[-1]


def test_a_merged_index_is_that_of_all_documents_in_turn(tmp_path: Path):
    a, b = documents("a", 25), documents("b", 17)
    build_index(corpus_of(a, "as"), HashingEncoder(), tmp_path / "a", shard_size=10)
    build_index(corpus_of(b, "bs"), HashingEncoder(), tmp_path / "b", shard_size=5)
    manifest = combine_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert (manifest.document_count, manifest.corpus.name, len(manifest.shards)) == (42, "as", 7)
    assert [(change.kind, change.corpus) for change in manifest.changes] == [("merge", "bs")]
    index = open_index(tmp_path / "both", verify=True)
    assert [index.document(row) for row in range(42)] == a + b
    assert list(index.all_ids()) == [document.doc_id for document in a + b]
    build_index(corpus_of(a + b), HashingEncoder(), tmp_path / "whole")
    whole = open_index(tmp_path / "whole")
    queries = np.stack([HashingEncoder().vector(f"query {i}") for i in range(9)])
    assert np.array_equal(index.search(queries, 42)[1], whole.search(queries, 42)[1])
    assert os.path.samefile(tmp_path / "b" / "vectors" / "00000.npy", tmp_path / "both" / "vectors" / "00003.npy")


def test_deleted_documents_are_left_out_for_good(tmp_path: Path):
    build_index(numbered_corpus(35), HashingEncoder(), tmp_path / "i", shard_size=10)
    delete_documents(tmp_path / "i", [f"d{i}" for i in [3, *range(10, 20)]])
    manifest = combine_indexes([tmp_path / "i"], tmp_path / "j")
    assert (manifest.document_count, manifest.deleted_count, manifest.format_version) == (24, 0, 1)
    assert [shard.documents for shard in manifest.shards] == [9, 10, 5]
    index = open_index(tmp_path / "j", verify=True)
    kept = [document for i, document in enumerate(numbered_corpus(35).documents()) if i != 3 and i // 10 != 1]
    assert [index.document(row) for row in range(24)] == kept
    for document, vector in zip(kept, np.concatenate(list(index.vectors())), strict=True):
        assert np.array_equal(vector, HashingEncoder().vector(document.content))


def test_another_vector_format_is_written_from_the_stored_vectors(tmp_path: Path):
    table = clustered(300, 16)
    build_index(table_corpus(300), TableEncoder(table), tmp_path / "i", shard_size=100)
    manifest = combine_indexes([tmp_path / "i"], tmp_path / "half", vector_format="float16")
    assert manifest.vector_format == "float16"
    stored = np.concatenate(list(open_index(tmp_path / "half", verify=True).vectors()))
    assert np.array_equal(stored, table.astype(np.float16).astype(np.float32))


def test_an_id_in_both_is_refused_unless_deleted_in_one(tmp_path: Path):
    for name, prefix in (("a", "a"), ("b", "b")):
        own = [*documents(prefix, 5), Document("both", f"{prefix} both")]
        build_index(corpus_of(own), HashingEncoder(), tmp_path / name)
    with pytest.raises(UserError, match=r"'both' is in .*a and in .*b"):
        combine_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    delete_documents(tmp_path / "a", ["both"])
    combine_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    index = open_index(tmp_path / "c")
    assert [index.document(row).text for row in range(11) if index.doc_id(row) == "both"] == ["b both"]


def test_indexes_of_different_models_are_not_merged(tmp_path: Path):
    build_index(corpus_of(documents("a", 5)), HashingEncoder(), tmp_path / "a")
    build_index(corpus_of(documents("b", 5)), HashingEncoder(weight_hash="0b"), tmp_path / "b")
    with pytest.raises(UserError, match="weight_hash differ"):
        combine_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "c")


def test_a_damaged_source_is_named_and_not_copied(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    path = tmp_path / "i" / "vectors" / "00001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"Shard 1 of the index in .* is damaged"):
        combine_indexes([tmp_path / "i"], tmp_path / "j")


def test_a_folder_that_is_taken_is_refused(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    build_index(corpus_of(documents("b", 5)), HashingEncoder(), tmp_path / "b")
    with pytest.raises(UserError, match="which it is made from"):
        combine_indexes([tmp_path / "i"], tmp_path / "i")
    with pytest.raises(UserError, match="`overwrite`"):
        combine_indexes([tmp_path / "i"], tmp_path / "b")
    with pytest.raises(UserError, match="begun with other documents"):
        combine_indexes([tmp_path / "i"], tmp_path / "b", resume=True)
    verify_index(tmp_path / "b")
    combine_indexes([tmp_path / "i"], tmp_path / "b", overwrite=True)
    assert len(open_index(tmp_path / "b", verify=True)) == 25


def test_a_merge_broken_off_before_any_rename_goes_on(tmp_path: Path):
    build_index(corpus_of(documents("a", 25)), HashingEncoder(), tmp_path / "a", shard_size=10)
    build_index(corpus_of(documents("b", 25)), HashingEncoder(), tmp_path / "b", shard_size=10)
    sources = [tmp_path / "a", tmp_path / "b"]
    whole = combine_indexes(sources, tmp_path / "whole")
    renames = 0
    while True:
        folder = tmp_path / f"c{renames}"
        try:
            with killed_at_rename(renames, KeyboardInterrupt):
                combine_indexes(sources, folder)
            break
        except KeyboardInterrupt:
            assert combine_indexes(sources, folder, resume=True).files == whole.files
            verify_index(folder)
            renames += 1
    assert renames > 8
    for source in sources:
        verify_index(source)


def test_an_index_that_grew_can_be_trained_anew(tmp_path: Path):
    table = clustered(2000, 16)
    rows = [Document(f"d{i}", str(i)) for i in range(2000)]
    build_index(corpus_of(rows[:900]), TableEncoder(table), tmp_path / "i", family="ivf-pq")
    grown = append_documents(corpus_of(rows[900:]), TableEncoder(table), tmp_path / "i")
    assert grown.family == "flat"
    again = combine_indexes([tmp_path / "i"], tmp_path / "j", family="ivf-pq")
    assert again.family == "ivf-pq"
    assert again.changes == grown.changes
    assert again.corpus == grown.corpus


def test_what_was_done_to_the_index_made_is_not_undone_by_making_it_again(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "a", shard_size=10)
    combine_indexes([tmp_path / "a"], tmp_path / "t")
    delete_documents(tmp_path / "t", ["d3"])
    with pytest.raises(UserError, match=r"was changed since it was made \(delete\), which would be lost"):
        combine_indexes([tmp_path / "a"], tmp_path / "t", resume=True)
    assert verify_index(tmp_path / "t").document_count == 24
    # What was done to the source before is no such change.
    delete_documents(tmp_path / "a", ["d5"])
    combine_indexes([tmp_path / "a"], tmp_path / "u")
    assert combine_indexes([tmp_path / "a"], tmp_path / "u", resume=True).document_count == 24


def test_a_shard_written_anew_is_kept_when_the_run_goes_on(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "a", shard_size=10)
    combine_indexes([tmp_path / "a"], tmp_path / "t", vector_format="float16")
    (tmp_path / "t" / "index.json").unlink()
    (tmp_path / "t" / "vectors" / "00001.npy").unlink()
    files = [tmp_path / "t" / "vectors" / f"0000{number}.npy" for number in range(3)]
    before = [path.stat().st_ino if path.exists() else 0 for path in files]
    combine_indexes([tmp_path / "a"], tmp_path / "t", vector_format="float16", resume=True)
    after = [path.stat().st_ino for path in files]
    assert (after[0], after[2]) == (before[0], before[2])
    verify_index(tmp_path / "t")
