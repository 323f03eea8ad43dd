import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing import exporting as export_module
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.exporting import FORMATS, export_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss, write_structure
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors
from ibkd_retrieval.progress import SILENT


def pyserini_search(folder: Path, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """What FaissSearcher does with a folder."""
    index = load_faiss().read_index(str(folder / "index"))
    ids = [line.rstrip() for line in (folder / "docid").read_text().splitlines()]
    scores, rows = index.search(query[None], k)
    return [(ids[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]


def test_an_exported_flat_index_gives_the_same_answers(tmp_path: Path):
    build_index(numbered_corpus(50), HashingEncoder(), tmp_path / "i", shard_size=20)
    export_index(tmp_path / "i", tmp_path / "out", "pyserini")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["docid", "index"]
    index = open_index(tmp_path / "i")
    query = HashingEncoder().encode(["a question"])[0]
    scores, rows = index.search(query[None], 10)
    expected = list(zip(index.doc_ids(rows[0]), scores[0].tolist(), strict=True))
    assert pyserini_search(tmp_path / "out", query, 10) == expected


def test_an_approximate_index_leaves_with_its_nprobe_or_as_exact_vectors(tmp_path: Path):
    table = clustered(1500, 16)
    manifest = build_index(table_corpus(1500), TableEncoder(table), tmp_path / "i", family="ivf-pq", shard_size=600)
    listener = Listener()
    export_index(tmp_path / "i", tmp_path / "out", "pyserini", progress=listener)
    assert load_faiss().read_index(str(tmp_path / "out" / "index")).nprobe == manifest.search.nprobe
    assert "less" in listener.said[0]
    export_index(tmp_path / "i", tmp_path / "exact", "pyserini", exact=True)
    best = [doc_id for doc_id, _ in pyserini_search(tmp_path / "exact", table[7], 10)]
    assert best == [f"d{row}" for row in np.argsort(-(table @ table[7]), kind="stable")[:10]]


def test_a_folder_with_anything_in_it_is_not_exported_into(tmp_path: Path):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index").write_text("theirs")
    for destination in (tmp_path / "out", tmp_path / "out" / "index"):
        with pytest.raises(UserError, match="not an empty folder"):
            export_index(tmp_path / "i", destination, "pyserini")
    assert (tmp_path / "out" / "index").read_text() == "theirs"


@pytest.mark.parametrize("to", list(FORMATS))
def test_a_failed_export_leaves_nothing_and_a_whole_one_nothing_else(
    tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    (tmp_path / "full").mkdir()

    def full(folder: Path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ibkd_retrieval.files.sync_directory", full)
        for name in ("out", "full"):
            with pytest.raises(OSError, match="No space left"):
                export_index(tmp_path / "i", tmp_path / name, to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "i"]
    assert not list((tmp_path / "full").iterdir())
    export_index(tmp_path / "i", tmp_path / "full", to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "i"]
    assert list((tmp_path / "full").iterdir())


def test_numpy_and_parquet_hold_the_exact_vectors_in_order(tmp_path: Path):
    table = clustered(1200, 16)
    build_index(table_corpus(1200), TableEncoder(table), tmp_path / "i", family="ivf-pq", shard_size=500)
    export_index(tmp_path / "i", tmp_path / "numpy", "numpy")
    export_index(tmp_path / "i", tmp_path / "parquet", "parquet")
    ids = [f"d{row}" for row in range(1200)]
    np.testing.assert_array_equal(np.load(tmp_path / "numpy" / "vectors.npy", mmap_mode="r"), table)
    assert (tmp_path / "numpy" / "ids.txt").read_text().split("\n") == [*ids, ""]
    written = pq.read_table(tmp_path / "parquet" / "documents.parquet")
    assert written.schema.field("vector").type == pa.list_(pa.float32(), 16)
    assert written.column("id").to_pylist() == ids
    assert written.column("text").to_pylist() == [str(row) for row in range(1200)]
    np.testing.assert_array_equal(np.stack(written.column("vector").to_numpy()), table)
    assert pq.ParquetFile(tmp_path / "parquet" / "documents.parquet").num_row_groups == 3


def test_a_text_that_parquet_cannot_hold_is_named(tmp_path: Path):
    build_index(corpus_of([Document("odd", "half \ud800")]), HashingEncoder(), tmp_path / "i")
    with pytest.raises(UserError, match=r"'odd'.*`to='numpy'`"):
        export_index(tmp_path / "i", tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_lists_the_known(tmp_path: Path):
    with pytest.raises(UserError, match="pyserini, numpy, parquet"):
        export_index(tmp_path / "i", tmp_path / "out", "zip")


@pytest.mark.parametrize("family", ["flat", "ivf-pq"])
def test_faiss_alone_reads_and_searches_the_structure_of_an_index(tmp_path: Path, family: str):
    table = clustered(1500, 16)
    build_index(table_corpus(1500), TableEncoder(table), tmp_path / "i", family=family)
    script = (
        "import sys, faiss, numpy as np\n"
        "index = faiss.read_index(sys.argv[1])\n"
        "queries = np.load(sys.argv[2])\n"
        "if hasattr(index, 'nprobe'):\n"
        "    index.nprobe = index.nlist\n"
        "np.save(sys.argv[3], index.search(queries, 50)[1])\n"
    )
    np.save(tmp_path / "q.npy", table[:20])
    paths = [tmp_path / "i" / "index.faiss", tmp_path / "q.npy", tmp_path / "rows.npy"]
    subprocess.run([sys.executable, "-c", script, *map(str, paths)], check=True)
    exact = np.argsort(-(table[:20] @ table.T), axis=1, kind="stable")[:, :10]
    rows = np.load(tmp_path / "rows.npy")
    if family == "flat":
        np.testing.assert_array_equal(rows[:, :10], exact)
    else:
        shared = [len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]
        assert np.mean(shared) > 0.9


def test_a_full_disk_while_faiss_writes_is_an_os_error():
    index = load_faiss().IndexFlatIP(8)
    index.add(clustered(100_000, 8))
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        load_faiss().write_index(index, load_faiss().PyCallbackIOWriter(file.write, 1 << 20))


def test_a_written_structure_is_what_faiss_itself_would_write(tmp_path: Path):
    index = load_faiss().IndexFlatIP(8)
    index.add(clustered(1000, 8))
    write_structure(index, tmp_path / "ours")
    load_faiss().write_index(index, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_an_export_into_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="not the current one"):
        export_index(tmp_path / "i", ".", "numpy")


def test_a_flat_file_written_shard_by_shard_is_that_of_faiss(tmp_path: Path):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "i", shard_size=10)
    (tmp_path / "i" / "index.faiss").rename(tmp_path / "whole.faiss")
    shards = ShardVectors(tmp_path / "i", [10, 10, 5], 16)
    export_module._write_flat(shards, (25, 16), tmp_path / "out", SILENT)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole.faiss").read_bytes()


@pytest.mark.parametrize("deleted", [["d2"], ["d0", "d1", "d2"], ["d1", "d5"]])
def test_vectors_and_documents_stay_together_where_the_last_of_a_shard_are_deleted(tmp_path: Path, deleted):
    build_index(numbered_corpus(7), HashingEncoder(), tmp_path / "i", shard_size=3)
    delete_documents(tmp_path / "i", deleted)
    export_index(tmp_path / "i", tmp_path / "out", "parquet")
    export_index(tmp_path / "i", tmp_path / "arrays", "numpy")
    left = [document for document in numbered_corpus(7).documents() if document.doc_id not in deleted]
    ids = [document.doc_id for document in left]
    vectors = HashingEncoder().encode([document.content for document in left])
    table = pq.read_table(tmp_path / "out" / "documents.parquet")
    assert table["id"].to_pylist() == (tmp_path / "arrays" / "ids.txt").read_text().split() == ids
    assert table["text"].to_pylist() == [document.text for document in left]
    assert np.allclose(table["vector"].to_pylist(), vectors)
    assert np.allclose(np.load(tmp_path / "arrays" / "vectors.npy"), vectors)
