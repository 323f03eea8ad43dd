from pathlib import Path

import numpy as np
import pytest
from indexing_fakes import HashingEncoder, Listener, TableEncoder, clustered, numbered_corpus, table_corpus

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.export import export_pyserini
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.store import open_index
from ibkd_retrieval.indexing.structure import write_structure


def pyserini_search(folder: Path, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    """What FaissSearcher does with a folder."""
    index = load_faiss().read_index(str(folder / "index"))
    ids = [line.rstrip() for line in (folder / "docid").read_text().splitlines()]
    scores, rows = index.search(query[None], k)
    return [(ids[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]


def test_an_exported_flat_index_gives_the_same_answers(tmp_path: Path):
    build_index(numbered_corpus(50), HashingEncoder(), tmp_path / "i", shard_size=20)
    export_pyserini(tmp_path / "i", tmp_path / "out")
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
    export_pyserini(tmp_path / "i", tmp_path / "out", progress=listener)
    assert load_faiss().read_index(str(tmp_path / "out" / "index")).nprobe == manifest.search.nprobe
    assert "less" in listener.said[0]
    export_pyserini(tmp_path / "i", tmp_path / "exact", exact=True)
    best = [doc_id for doc_id, _ in pyserini_search(tmp_path / "exact", table[7], 10)]
    assert best == [f"d{row}" for row in np.argsort(-(table @ table[7]), kind="stable")[:10]]


def test_a_folder_with_anything_in_it_is_not_exported_into(tmp_path: Path):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index").write_text("theirs")
    for destination in (tmp_path / "out", tmp_path / "out" / "index"):
        with pytest.raises(UserError, match="not an empty folder"):
            export_pyserini(tmp_path / "i", destination)
    assert (tmp_path / "out" / "index").read_text() == "theirs"


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
