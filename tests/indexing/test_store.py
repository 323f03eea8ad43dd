import gc
import importlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import HashingEncoder, TableEncoder, clustered, corpus_of, numbered_corpus, table_corpus
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import MissingPackage, UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.plan import fingerprint
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.indexing.vectors.exact import rescore
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "index", shard_size=10)
    return tmp_path / "index"


def test_a_flipped_byte_anywhere_in_the_faiss_file_is_found_on_opening(folder: Path):
    data = (folder / "index.faiss").read_bytes()
    for place in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        (folder / "index.faiss").write_bytes(damaged)
        with pytest.raises(UserError, match=r"index.faiss: its checksum .* `build_index\(resume=True\)`"):
            open_index(folder)


def test_a_faiss_file_too_large_to_verify_is_still_refused_when_unreadable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ibkd_retrieval.indexing.format.integrity.ALWAYS_VERIFIED_BYTES", 0)
    data = bytearray((folder / "index.faiss").read_bytes())
    data[:4] = b"none"
    (folder / "index.faiss").write_bytes(data)
    with pytest.raises(UserError, match="faiss cannot read it"):
        open_index(folder)


def test_a_faiss_file_of_another_index_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ibkd_retrieval.indexing.format.integrity.ALWAYS_VERIFIED_BYTES", 0)
    build_index(numbered_corpus(50), HashingEncoder(dim=8), tmp_path / "other")
    assert (tmp_path / "other" / "index.faiss").stat().st_size == (folder / "index.faiss").stat().st_size
    (folder / "index.faiss").write_bytes((tmp_path / "other" / "index.faiss").read_bytes())
    with pytest.raises(UserError, match="50 vectors of 8 dimensions and 25 of 16"):
        open_index(folder)


@pytest.mark.parametrize("name", ["vectors/00001.npy", "documents/00002.jsonl", "docids", "docids.offsets.npy"])
def test_a_missing_or_cut_file_is_found_on_opening_and_a_changed_one_on_verifying(folder: Path, name: str):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="checksum"):
        open_index(folder, verify=True)
    with pytest.raises(UserError, match="checksum"):
        verify_index(folder)
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(UserError, match="bytes"):
        open_index(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match="missing"):
        open_index(folder)


def test_search_refuses_what_it_cannot_answer(folder: Path):
    index = open_index(folder)
    good = np.ones((1, 16), dtype=np.float32)
    for vectors in (np.ones((1, 15), dtype=np.float32), np.ones(16, dtype=np.float32)):
        with pytest.raises(UserError, match="16 dimensions"):
            index.search(vectors, 1)
    with pytest.raises(UserError, match="at least 1"):
        index.search(good, 0)
    with pytest.raises(UserError, match="not finite"):
        index.search(good * np.nan, 1)
    with pytest.raises(UserError, match="always exact"):
        index.search(good, 1, SearchParams(nprobe=4))


def test_sizes_are_those_of_the_files(folder: Path):
    index = open_index(folder)
    assert index.memory_bytes == (folder / "index.faiss").stat().st_size
    assert 25 * 16 * 4 <= index.memory_bytes <= 25 * 16 * 4 + 100
    assert index.disk_bytes == sum((folder / name).stat().st_size for name in index.manifest.files)


def test_refinement_keeps_the_best_candidates_by_exact_score(tmp_path: Path):
    table = clustered(100, 8)
    build_index(table_corpus(100), TableEncoder(table), tmp_path / "i", shard_size=7)
    vectors = ShardVectors(tmp_path / "i", [7] * 14 + [2], 8)
    generator = np.random.default_rng(3)
    queries = clustered(20, 8, seed=1)
    candidates = np.stack([generator.choice(100, 30, replace=False) for _ in queries])
    candidates[3, 25:] = -1
    candidates[4] = -1
    scores, rows = rescore(queries, candidates, vectors, 28)
    for query in range(20):
        own = candidates[query][candidates[query] >= 0]
        best = own[np.argsort(-(table[own] @ queries[query]), kind="stable")][:28]
        assert set(rows[query]) - {-1} == set(best)
        assert (rows[query, len(best) :] == -1).all()
        assert (scores[query, len(best) :] == -np.inf).all()
        np.testing.assert_allclose(
            scores[query, : len(best)], table[rows[query, : len(best)]] @ queries[query], atol=1e-6
        )


def test_an_index_of_more_shards_than_files_may_be_open_is_searched(tmp_path: Path):
    table = clustered(90, 8)
    build_index(table_corpus(90), TableEncoder(table), tmp_path / "i", shard_size=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Whatever else this process has open by now is none of the index's.
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 70, hard))
    try:
        index = open_index(tmp_path / "i")
        for row, shard in enumerate(index.vectors()):
            assert np.array_equal(shard, table[row : row + 1])
        assert np.array_equal(index._vectors.gather(np.arange(90)[::-1].copy()), table[::-1])
        assert [index.document(row).text for row in range(90)] == [str(row) for row in range(90)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_missing_faiss_names_the_line_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingPackage, match=r"pip install 'ibkd-retrieval\[cpu\]'"):
        load_faiss()
    encoder = HashingEncoder()
    with pytest.raises(MissingPackage):
        build_index(numbered_corpus(5), encoder, tmp_path / "i")
    assert encoder.encoded == []


def test_loading_faiss_sets_the_openmp_policy_and_importing_the_room_loads_none_of_it():
    script = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None);"
        "import ibkd_retrieval.indexing.build, ibkd_retrieval.indexing.index, ibkd_retrieval.indexing.exporting;"
        "assert 'faiss' not in sys.modules and 'torch' not in sys.modules;"
        "from ibkd_retrieval.indexing.faiss_binding import load_faiss, blas_threshold; load_faiss();"
        "assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'; blas_threshold(32);"
        "assert load_faiss().cvar.distance_compute_blas_threshold == 128"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("family", ["flat", "ivf-pq"])
@pytest.mark.parametrize("exact_rows", [0, 20_000], ids=["by faiss", "exactly"])
def test_only_allowed_rows_are_found(tmp_path: Path, family: str, exact_rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ibkd_retrieval.indexing.index.EXACT_ALLOWED_ROWS", exact_rows)
    table = clustered(2000, 16)
    build_index(table_corpus(2000), TableEncoder(table), tmp_path / "index", family=family, shard_size=512)
    index = open_index(tmp_path / "index")
    allowed = np.zeros(2000, dtype=bool)
    allowed[5::7] = True
    queries = table[:40]
    scores, rows = index.search(queries, 10, allowed=allowed)
    exact = np.where(allowed, queries @ table.T, -np.inf)
    truth = np.argsort(-exact, axis=1)[:, :10]
    assert allowed[rows].all()
    shared = np.mean([len(set(a) & set(b)) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]) / 10
    assert shared >= (1.0 if family == "flat" or exact_rows else 0.95)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-5)


def test_where_fewer_rows_are_allowed_than_asked_for_the_rest_is_padding(folder: Path):
    index = open_index(folder)
    allowed = np.zeros(25, dtype=bool)
    query = HashingEncoder().encode(["text 3"])
    scores, rows = index.search(query, 4, allowed=allowed)
    assert rows.tolist() == [[-1] * 4]
    assert np.isneginf(scores).all()
    allowed[[3, 20]] = True
    scores, rows = index.search(query, 4, allowed=allowed)
    assert set(rows[0, :2].tolist()) == {3, 20}
    assert rows[0, 2:].tolist() == [-1, -1]


def test_fields_of_documents_are_stored_and_change_the_fingerprint(tmp_path: Path):
    plain = Document("a", "text")
    dated = Document("a", "text", fields={"year": 1999, "open": True})
    build_index(corpus_of([dated]), HashingEncoder(), tmp_path / "index")
    assert open_index(tmp_path / "index").document(0) == dated
    assert fingerprint([plain]) != fingerprint([dated])


def test_an_open_index_that_was_replaced_says_so_and_one_that_grew_goes_on(folder: Path):
    queries = np.stack([HashingEncoder().vector("a query")])
    grown, replaced = open_index(folder), open_index(folder)
    delete_documents(folder, ["d3"])
    assert grown.document(3).doc_id == "d3"
    assert len(grown.exactly().search(queries, 25)[1][0]) == 25
    texts = corpus_of([Document(f"d{i}", f"another text {i}") for i in range(25)])
    build_index(texts, HashingEncoder(weight_hash="0b"), folder, shard_size=10, overwrite=True)
    with pytest.raises(UserError, match="was replaced while it was open"):
        replaced.document(3)
    with pytest.raises(UserError, match="was replaced while it was open"):
        replaced.exactly().search(queries, 5)


def test_a_missing_record_of_a_shard_is_found_on_verifying(folder: Path):
    (folder / "shards" / "00001.json").unlink()
    with pytest.raises(UserError, match=r"shards/00001.json: it is missing"):
        verify_index(folder)


def test_an_index_nobody_holds_is_gone_at_once(tmp_path: Path):
    """Its structure may take gigabytes, and its files descriptors: neither waits for a garbage collection."""
    import weakref

    from ibkd_retrieval.indexing.api import import_vectors

    import_vectors([[1.0, 0.0], [0.0, 1.0]], tmp_path / "i", ids=["a", "b"])
    index = open_index(tmp_path / "i")
    assert index.document(0).doc_id == "a"
    held = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert held() is None
    finally:
        gc.enable()
