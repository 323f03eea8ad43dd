import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.indexing_fakes import Listener, TableEncoder, clustered, table_corpus
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import Flat
from ibkd_retrieval.indexing.index import open_index

# Multiples of 1/4 in a small range: every inner product is exact in float32, and duplicates and zeros are common.
QUARTERS = st.integers(-4, 4).map(lambda value: value / 4)


@st.composite
def problems(draw):
    n, dim, queries = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(0, 9))
    table = draw(hnp.arrays(np.float32, (n, dim), elements=QUARTERS))
    asked = draw(hnp.arrays(np.float32, (queries, dim), elements=QUARTERS))
    allowed = draw(st.none() | hnp.arrays(np.bool_, n))
    return table, asked, draw(st.integers(1, 50)), draw(st.integers(-(-n // 3), 45)), allowed


@settings(max_examples=40)
@given(problems(), st.sampled_from(["in memory", "from the shards", "scanned"]), st.integers(0, 40))
def test_flat_search_returns_the_k_largest_inner_products_in_order_of_rows_and_pads(problem, form, exact_rows):
    table, queries, k, shard_size, allowed = problem
    family = Flat(memory_bytes=None if form == "in memory" else 0)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr("ibkd_retrieval.indexing.vectors.exact._BLOCK_BYTES", 4 * table.shape[1] * 7)
        patched.setattr("ibkd_retrieval.indexing.index.EXACT_ALLOWED_ROWS", exact_rows)
        build_index(
            table_corpus(len(table)), TableEncoder(table), Path(folder) / "i", family=family, shard_size=shard_size
        )
        limit = 0 if form == "scanned" else None
        index = open_index(Path(folder) / "i", verify=True, memory_limit=limit)
        assert index.is_scanned == (form == "scanned")
        scores, rows = index.search(queries, k, allowed=allowed)
        assert np.array_equal(np.concatenate(list(index.vectors())), table)
    assert scores.shape == rows.shape == (len(queries), k)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    candidates = np.arange(len(table)) if allowed is None else np.flatnonzero(allowed)
    found = min(k, len(candidates))
    assert (rows[:, found:] == -1).all()
    assert (scores[:, found:] == -np.inf).all()
    exact = queries @ table[candidates].T
    order = np.argsort(-exact, axis=1, kind="stable")[:, :found]
    assert np.array_equal(rows[:, :found], candidates[order])
    assert np.array_equal(scores[:, :found], np.take_along_axis(exact, order, axis=1))


def test_a_flat_index_above_its_limit_stores_its_vectors_once(tmp_path: Path):
    table = clustered(500, 16)
    for name, limit in (("twice", None), ("once", 500 * 16 * 4 - 1)):
        build_index(table_corpus(500), TableEncoder(table), tmp_path / name, family=Flat(memory_bytes=limit))
    assert (tmp_path / "twice" / "index.faiss").exists()
    assert not (tmp_path / "once" / "index.faiss").exists()
    listener = Listener()
    scanned = open_index(tmp_path / "once", memory_limit=500 * 16 * 4 - 1, progress=listener)
    assert scanned.memory_bytes == 0
    assert "are not loaded" in listener.said[0]
    loaded = open_index(tmp_path / "once", memory_limit=500 * 16 * 4)
    assert loaded.memory_bytes == 500 * 16 * 4
    answers = [index.search(table[:50], 20)[1] for index in (scanned, loaded, open_index(tmp_path / "twice"))]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_an_index_made_flat_again_with_a_limit_loses_its_structure_file(tmp_path: Path):
    table = clustered(100, 16)
    build_index(table_corpus(100), TableEncoder(table), tmp_path / "i")
    build_index(table_corpus(100), TableEncoder(table), tmp_path / "i", family=Flat(memory_bytes=0), resume=True)
    assert not (tmp_path / "i" / "index.faiss").exists()
    open_index(tmp_path / "i", verify=True)


def test_pyserini_gets_a_structure_even_where_the_index_has_none(tmp_path: Path):
    table = clustered(100, 16)
    build_index(table_corpus(100), TableEncoder(table), tmp_path / "i", family=Flat(memory_bytes=0))
    export_index(tmp_path / "i", tmp_path / "out", "pyserini")
    index = load_faiss().read_index(str(tmp_path / "out" / "index"))
    assert np.array_equal(index.reconstruct_n(0, 100), table)
