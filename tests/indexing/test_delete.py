from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.indexing_fakes import HashingEncoder, TableEncoder, clustered, numbered_corpus, table_corpus
from helpers.killing import killed_at_rename
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index


@pytest.mark.parametrize("family", ["flat", "ivf-pq"])
def test_deleted_documents_are_found_by_no_search(tmp_path: Path, family: str):
    count = 21_500 if family == "flat" else 3000  # More than are compared one by one where a filter leaves few.
    table = clustered(count, 16)
    folder = tmp_path / "i"
    build_index(table_corpus(count), TableEncoder(table), folder, family=family)
    gone = np.random.default_rng(0).choice(count, 1000, replace=False)
    manifest = delete_documents(folder, [f"d{row}" for row in gone])
    assert (manifest.document_count, manifest.deleted_count, manifest.format_version) == (count - 1000, 1000, 2)
    index = open_index(folder, verify=True)
    assert len(index) == count - 1000
    queries = table[gone[:50]]
    rows = index.search(queries, 20)[1]
    assert not set(rows.ravel().tolist()) & set(gone.tolist())
    left = np.setdiff1d(np.arange(count), gone)
    true = left[np.argsort(-(queries @ table[left].T), axis=1)[:, :20]]
    shared = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(rows.tolist(), true.tolist(), strict=True)])
    assert shared == 1 if family == "flat" else shared > 0.9
    allowed = np.zeros(count, dtype=bool)
    allowed[gone[:10]] = allowed[left[:5]] = True
    found = index.search(queries, 20, allowed=allowed)[1]
    assert set(found.ravel().tolist()) == {-1, *left[:5].tolist()}


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(0, 29), min_size=1, max_size=6), max_size=4))
def test_deletions_add_up(tmp_path_factory: pytest.TempPathFactory, deletions: list[set[int]]):
    folder = tmp_path_factory.mktemp("deletions") / "i"
    build_index(numbered_corpus(30), HashingEncoder(), folder)
    left = set(range(30))
    for rows in deletions:
        if rows <= left:
            delete_documents(folder, [f"d{row}" for row in rows])
            left -= rows
        else:
            missing = len(rows - left)
            with pytest.raises(UserError, match=f"^{missing} of {len(rows)} ids"):
                delete_documents(folder, [f"d{row}" for row in rows])
    index = open_index(folder, verify=True)
    found = index.search(np.ones((1, 16), np.float32), 30)[1][0]
    assert set(found[found >= 0].tolist()) == left
    assert len(index) == len(left)
    assert len(list(folder.glob("deleted.*"))) <= 1


def test_unknown_ids_are_counted_and_nothing_is_deleted(tmp_path: Path):
    build_index(numbered_corpus(10), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match=r"2 of 3 ids .* \(such as 'x1'\); nothing was deleted"):
        delete_documents(tmp_path / "i", ["d1", "x1", "x2"])
    with pytest.raises(UserError, match="all the documents"):
        delete_documents(tmp_path / "i", [f"d{i}" for i in range(10)])
    with pytest.raises(UserError, match="no ids"):
        delete_documents(tmp_path / "i", [])
    assert len(open_index(tmp_path / "i")) == 10


def test_a_deletion_broken_off_before_any_rename_deletes_nothing(tmp_path: Path):
    build_index(numbered_corpus(10), HashingEncoder(), tmp_path / "i")
    delete_documents(tmp_path / "i", ["d1"])
    for renames in (0, 1):
        with pytest.raises(KeyboardInterrupt), killed_at_rename(renames, KeyboardInterrupt):
            delete_documents(tmp_path / "i", ["d2"])
        assert len(open_index(tmp_path / "i", verify=True)) == 9
    delete_documents(tmp_path / "i", ["d2"])
    assert len(open_index(tmp_path / "i", verify=True)) == 8


def test_what_killed_changes_left_is_cleared_by_the_next_change_and_the_files_are_those_of_an_undisturbed_one(
    tmp_path: Path,
):
    for name in ("whole", "left"):
        build_index(numbered_corpus(25), HashingEncoder(), tmp_path / name)
        delete_documents(tmp_path / name, ["d3"])
    for left in ("deleted.3.npy", ".deleted.3.npy.61.tmp", ".index.json.62.tmp", "index.2.faiss", "docids.2"):
        (tmp_path / "left" / left).write_bytes(b"half")
    (tmp_path / "left" / "deleted.txt").write_text("mine")
    (tmp_path / "whole" / "deleted.txt").write_text("mine")
    for name in ("whole", "left"):
        delete_documents(tmp_path / name, ["d5"])
        verify_index(tmp_path / name)
    files = {name: sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "left")}
    assert files["left"] == files["whole"]
    assert "deleted.3.npy" in files["left"]
    assert not {"deleted.2.npy", "index.2.faiss"} & set(files["left"])


def test_a_damaged_list_of_deleted_rows_is_noticed(tmp_path: Path):
    build_index(numbered_corpus(10), HashingEncoder(), tmp_path / "i")
    manifest = delete_documents(tmp_path / "i", ["d1"])
    path = tmp_path / "i" / (manifest.tombstones or "")
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        open_index(tmp_path / "i")
    path.write_bytes(data[:-8] + (5).to_bytes(8, "little"))
    with pytest.raises(UserError, match="checksum"):
        verify_index(tmp_path / "i")


def test_what_pyserini_would_find_again_is_not_exported(tmp_path: Path):
    build_index(numbered_corpus(10), HashingEncoder(), tmp_path / "i")
    delete_documents(tmp_path / "i", ["d1"])
    with pytest.raises(UserError, match=r"`combine\(from_="):
        export_index(tmp_path / "i", tmp_path / "out", "pyserini")
    assert read_manifest(tmp_path / "i").deleted_count == 1
