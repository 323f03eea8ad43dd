"""New versions of known ids replace the old ones in one step, and updates take only what is newer."""

from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, TableEncoder, clustered, corpus_of, numbered_corpus
from helpers.killing import Killed, killed_at_rename
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.api import append
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    return tmp_path / "i"


def update(name: str = "update") -> object:
    return corpus_of([Document(f"d{i}", f"anew {i}") for i in range(20, 32)], name)


def texts(folder: Path) -> dict[str, str]:
    """The text that a search finds by each id."""
    index = open_index(folder)
    rows = index.search(HashingEncoder().vector("anything")[None], len(index))[1][0]
    found = [index.document(row) for row in rows.tolist()]
    assert len({document.doc_id for document in found}) == len(found)
    return {document.doc_id: document.text for document in found}


OLD = {f"d{i}": f"text of document {i}" for i in range(25)}
NEW = OLD | {f"d{i}": f"anew {i}" for i in range(20, 32)}


def test_new_versions_take_the_place_of_the_old_ones(folder: Path):
    assert texts(folder) == OLD
    made, listener = open_index(folder), Listener()
    manifest = append_documents(update(), HashingEncoder(), folder, replace=True, progress=listener)
    assert texts(folder) == NEW
    assert (manifest.document_count, manifest.deleted_count, manifest.rows) == (32, 5, 37)
    assert [(each.kind, each.documents) for each in manifest.changes] == [("delete", 5), ("append", 12)]
    assert "5 documents are replaced and 7 are added." in listener.said
    verify_index(folder)
    # An index that was open goes on with what it had.
    rows = made.search(HashingEncoder().vector("anything")[None], 25)[1][0]
    assert {made.doc_id(row): made.document(row).text for row in rows.tolist()} == OLD


def test_what_was_replaced_can_be_replaced_deleted_and_left_behind(folder: Path, tmp_path: Path):
    append_documents(update(), HashingEncoder(), folder, replace=True)
    again = corpus_of([Document("d20", "once more"), Document("d3", "three anew")], "again")
    append_documents(again, HashingEncoder(), folder, replace=True)
    expected = NEW | {"d20": "once more", "d3": "three anew"}
    assert texts(folder) == expected
    delete_documents(folder, ["d21"])
    del expected["d21"]
    assert texts(folder) == expected
    append_documents(corpus_of([Document("d21", "back")], "back"), HashingEncoder(), folder, replace=True)
    assert texts(folder) == expected | {"d21": "back"}
    assert combine_indexes([folder], tmp_path / "whole").deleted_count == 0
    assert texts(tmp_path / "whole") == expected | {"d21": "back"}


def test_every_document_can_be_replaced_at_once(folder: Path):
    whole = corpus_of([Document(f"d{i}", f"anew {i}") for i in range(25)], "whole")
    append_documents(whole, HashingEncoder(), folder, replace=True)
    assert texts(folder) == {f"d{i}": f"anew {i}" for i in range(25)}


def test_a_compressed_index_finds_only_new_versions(tmp_path: Path):
    table = clustered(1500, 16)
    rows = [Document(f"d{i}", str(i)) for i in range(1000)]
    build_index(corpus_of(rows), TableEncoder(table), tmp_path / "i", family="ivf-pq", shard_size=500)
    moved = corpus_of([Document(f"d{i}", str(i + 1000)) for i in range(500)], "moved")
    append_documents(moved, TableEncoder(table), tmp_path / "i", replace=True)
    index = open_index(tmp_path / "i")
    found = index.search(table, 10)[1]
    assert found.min() >= 500
    assert (index.search(table[1000:], 1)[1][:, 0] == range(1000, 1500)).mean() > 0.95


def test_a_replacement_killed_before_any_rename_leaves_all_old_and_then_gives_all_new(tmp_path: Path):
    renames = 0
    while True:
        folder = tmp_path / f"i{renames}"
        build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
        delete_documents(folder, ["d0"])
        try:
            with killed_at_rename(renames):
                append_documents(update(), HashingEncoder(), folder, replace=True)
            break
        except Killed:
            verify_index(folder)
            assert texts(folder) == {name: text for name, text in OLD.items() if name != "d0"}
            append_documents(update(), HashingEncoder(), folder, replace=True, resume=True)
            verify_index(folder)
            assert texts(folder) == {name: text for name, text in NEW.items() if name != "d0"}
            listed = {"index.json", "build.json", *(f"shards/0000{i}.json" for i in range(5))}
            listed |= set(read_manifest(folder).files)
            assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == listed
            renames += 1
    assert renames > 10


class Refusing(HashingEncoder):
    def encode(self, texts, kind="document", progress=None):
        if "anew 30" in texts:
            raise UserError("no further")
        return super().encode(texts, kind, progress)


def test_an_append_does_not_become_a_replacement_halfway(folder: Path):
    more = corpus_of([Document(f"e{i}", f"anew {i}") for i in range(20, 32)], "more")
    with pytest.raises(UserError, match="no further"):
        append_documents(more, Refusing(), folder)
    with pytest.raises(UserError, match="begun without `replace`"):
        append_documents(more, HashingEncoder(), folder, replace=True, resume=True)
    assert append_documents(more, HashingEncoder(), folder, resume=True).document_count == 37


def test_a_replacement_that_was_broken_off_goes_on_as_one(folder: Path):
    with pytest.raises(UserError, match="no further"):
        append_documents(update(), Refusing(), folder, replace=True)
    assert texts(folder) == OLD
    append_documents(update(), HashingEncoder(), folder, resume=True)
    assert texts(folder) == NEW


def dated(*days: object, start: int = 0, field: str = "updated") -> list[Document]:
    return [Document(f"d{i}", f"text {i}", "", {field: day}) for i, day in enumerate(days, start)]


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    corpus = corpus_of([*dated("2024-05-01", "2024-05-03", "2024-05-03"), Document("x", "undated")], "diary")
    build_index(corpus, HashingEncoder(), tmp_path / "diary")
    return tmp_path / "diary"


def test_only_documents_newer_than_the_newest_are_added(diary: Path):
    newer = [
        *dated("2024-05-01", "2024-05-03", "2024-05-04"),  # d2 changed.
        *dated("2024-05-03", "2024-05-02", "2024-05-09", start=7),  # d7 is as new as the newest, and not there.
        Document("y", "undated"),
    ]
    listener, encoder = Listener(), HashingEncoder()
    append(diary, newer, encoder, replace=True, since="updated", progress=listener)
    assert sorted(encoder.encoded) == ["text 2", "text 7", "text 9"]
    assert read_manifest(diary).document_count == 6
    (said,) = (said for said in listener.said if "are newer than" in said)
    assert said.startswith("3 documents of in-memory-")
    assert said.endswith("are newer than updated=2024-05-03 of the index. 1 have no `updated` and are left out.")


def test_an_update_without_anything_newer_changes_nothing(diary: Path):
    before = (diary / "index.json").read_bytes()
    made = append(diary, dated("2024-05-01", "2024-05-03"), HashingEncoder(), since="updated")
    assert made.manifest.document_count == 4
    assert (diary / "index.json").read_bytes() == before


def test_a_deleted_document_does_not_come_back_with_an_update(diary: Path):
    delete_documents(diary, ["d1", "d2"])
    append(diary, dated("2024-05-01", "2024-05-03", "2024-05-03", "2024-05-04"), HashingEncoder(), since="updated")
    assert set(texts(diary)) == {"d0", "d3", "x"}


@pytest.mark.parametrize(
    ("documents", "since", "sentence"),
    [
        (dated("2024-06-01", start=5), "changed", "No document of the index in .* has the field `changed`"),
        (dated(20240601, start=5), "updated", "20240601 and '2024-05-03', which do not compare"),
        (dated(True, start=5), "updated", "The field `updated` of d5 is True"),
        (dated("2024-06-01", start=1), "updated", r"'d1' of .* is already in the index .* `append\(replace=True\)`"),
    ],
)
def test_what_does_not_compare_is_refused(diary: Path, documents: list[Document], since: str, sentence: str):
    before = (diary / "index.json").read_bytes()
    with pytest.raises(UserError, match=sentence):
        append(diary, documents, HashingEncoder(), since=since)
    assert (diary / "index.json").read_bytes() == before
