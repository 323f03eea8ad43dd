"""Rows out of the shards of an index: any format, few or many, and no reading beyond what is there."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import TableEncoder, clustered, table_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.format.vectors import FORMATS, pack, unpack
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors


def stored(folder: Path, resident: int | None = None) -> ShardVectors:
    manifest = read_manifest(folder)
    return ShardVectors(folder, [shard.documents for shard in manifest.shards], manifest.dim, resident)


def mapped_bytes() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(status.split("RssFile:")[1].split()[0])


@pytest.mark.parametrize("dim", [1, 3, 8, 24])
@pytest.mark.parametrize("vector_format", FORMATS)
def test_rows_are_those_stored_however_many_are_asked_for(tmp_path: Path, vector_format: str, dim: int):
    table = clustered(400, dim, seed=dim)
    build_index(table_corpus(400), TableEncoder(table), tmp_path / "i", shard_size=37, vector_format=vector_format)
    kept = unpack(pack(table, vector_format))
    vectors = stored(tmp_path / "i")
    generator = np.random.default_rng(dim)
    query = clustered(1, dim, seed=5)[0]
    # 11 shards: from 704 rows on they are read shard by shard, fewer through one window over all.
    for asked in (0, 1, 5, 90, 399, 703, 704, 2000):
        rows = generator.integers(0, 400, asked)
        assert np.array_equal(vectors.gather(rows), kept[rows])
        np.testing.assert_allclose(vectors.products(rows, query), kept[rows] @ query, atol=1e-6)


def test_a_shard_of_another_format_than_the_others_is_refused(tmp_path: Path):
    table = clustered(50, 16)
    build_index(table_corpus(50), TableEncoder(table), tmp_path / "i", shard_size=20)
    np.save(tmp_path / "i" / read_manifest(tmp_path / "i").shards[1].vectors, table[20:40].astype(np.float16))
    vectors = stored(tmp_path / "i")
    assert np.array_equal(vectors.gather(np.array([3, 49])), table[[3, 49]])
    with pytest.raises(UserError, match="holds float16 among shards of float32"):
        vectors.gather(np.array([3, 25]))


@pytest.mark.parametrize("row", [-1, 20])
def test_a_row_that_is_not_there_is_refused(tmp_path: Path, row: int):
    table = clustered(20, 8)
    build_index(table_corpus(20), TableEncoder(table), tmp_path / "i", shard_size=7)
    with pytest.raises(IndexError, match="of 20"):
        stored(tmp_path / "i").gather(np.array([3, row]))


def test_a_file_cut_short_after_it_was_opened_is_an_error_and_no_crash(tmp_path: Path):
    table = clustered(20, 8)
    build_index(table_corpus(20), TableEncoder(table), tmp_path / "i", shard_size=7)
    vectors = stored(tmp_path / "i")
    vectors.gather(np.array([1]))
    path = tmp_path / "i" / read_manifest(tmp_path / "i").shards[1].vectors
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="cannot be read"):
        vectors.gather(np.array([8]))


def test_a_build_lets_go_of_what_it_read_of_the_files(tmp_path: Path):
    table = clustered(20_000, 384)
    build_index(table_corpus(20_000), TableEncoder(table), tmp_path / "i", shard_size=2000)
    rows = np.random.default_rng(0).integers(0, 20_000, (200, 100))
    before = mapped_bytes()
    sparing, keeping = stored(tmp_path / "i", resident=1 << 22), stored(tmp_path / "i")
    for some in rows:
        np.testing.assert_allclose(sparing.products(some, table[0]), table[some] @ table[0], atol=1e-5)
    assert mapped_bytes() - before < 16 << 20
    for some in rows:
        keeping.products(some, table[0])
    assert mapped_bytes() - before > 24 << 20


def test_threads_that_open_files_at_once_read_the_right_rows(tmp_path: Path):
    table = clustered(3000, 8)
    build_index(table_corpus(3000), TableEncoder(table), tmp_path / "i", shard_size=10)
    vectors = stored(tmp_path / "i")

    def read(seed: int) -> bool:
        generator = np.random.default_rng(seed)
        return all(np.array_equal(vectors.gather(rows), table[rows]) for rows in generator.integers(0, 3000, (100, 5)))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_more_shards_than_a_process_may_map_are_refused_on_opening_with_what_to_set(tmp_path: Path, monkeypatch):
    table = clustered(1200, 8)
    for family in ("flat", "sq8"):
        build_index(table_corpus(1200), TableEncoder(table), tmp_path / family, family=family, shard_size=200)
    monkeypatch.setattr("ibkd_retrieval.indexing.vectors.shard_vectors._most_maps", lambda: 20_005)
    with pytest.raises(UserError, match=r"6 shards, and a process maps up to 5 .* vm.max_map_count to at least 20,006"):
        open_index(tmp_path / "sq8")
    flat = open_index(tmp_path / "flat")  # It reads shard after shard.
    assert flat.search(table[:1], 3)[1][0, 0] == 0
    with pytest.raises(UserError, match="has 6 shards"):
        stored(tmp_path / "flat").gather(np.arange(3))
