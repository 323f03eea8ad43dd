from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.indexing_fakes import TableEncoder, clustered, table_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.vectors import (
    FORMATS,
    bytes_per_vector,
    format_of,
    inner_products,
    nearest,
    pack,
    unpack,
)
from ibkd_retrieval.indexing.index import open_index

VECTORS = arrays.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(7)), elements=st.floats(-1000, 1000, width=32))


@given(VECTORS)
def test_float32_is_kept_to_the_bit(vectors: np.ndarray):
    assert unpack(pack(vectors, "float32")).tobytes() == vectors.tobytes()


@given(VECTORS)
def test_float16_rounds_to_eleven_bits(vectors: np.ndarray):
    assert np.allclose(unpack(pack(vectors, "float16")), vectors, rtol=2**-11, atol=2**-24)


@given(VECTORS)
def test_int8_is_within_half_a_step_of_the_vectors_largest(vectors: np.ndarray):
    step = np.abs(vectors).max(axis=1, initial=0, keepdims=True) / 127
    assert (np.abs(unpack(pack(vectors, "int8")) - vectors) <= 0.501 * step + 1e-37).all()


@pytest.mark.parametrize("vector_format", FORMATS)
def test_the_nearest_of_some_rows_are_those_of_all_products_with_ties_by_position(vector_format: str):
    generator = np.random.default_rng(0)
    table = generator.standard_normal((900, 24)).astype(np.float32)
    table[5:900:7] = table[3]  # Many are equal, also at the last place.
    for count in (1, 4, 30, 200, 900):
        rows = pack(table[:count], vector_format)
        for query in generator.standard_normal((6, 24)).astype(np.float32), table[3:4]:
            products = [inner_products(rows, each) for each in query]
            for k in (1, 3, 10, 250):
                for exact, each in zip(products, query, strict=True):
                    scores, places = nearest(rows, each, k)
                    assert places.tolist() == np.argsort(-exact, kind="stable")[:k].tolist()
                    assert np.array_equal(scores, exact[places])


def test_a_zero_vector_stays_zero():
    assert not unpack(pack(np.zeros((2, 3), np.float32), "int8")).any()


def test_components_that_float16_cannot_hold_are_refused():
    with pytest.raises(UserError, match=r"`vectors='float32'`"):
        pack(np.array([[1e6, 0]], np.float32), "float16")


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_a_file_tells_its_format(tmp_path: Path, name: str):
    packed = pack(np.ones((3, 5), np.float32), name)
    np.save(tmp_path / "v.npy", packed)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r", allow_pickle=False)
    assert format_of(mapped, 5) == name
    assert format_of(mapped, 6) is None
    assert packed.nbytes == 3 * bytes_per_vector(name, 5)


@pytest.mark.parametrize(("name", "version", "overlap"), [("float32", 1, 1.0), ("float16", 2, 0.99), ("int8", 2, 0.95)])
@pytest.mark.parametrize("family", ["flat", "ivf-pq"])
def test_an_index_of_rounded_vectors_is_exact_over_what_it_stores(
    tmp_path: Path, name: str, version: int, overlap: float, family: str
):
    table = clustered(1500, 32)
    encoder = TableEncoder(table)
    manifest = build_index(
        table_corpus(1500), encoder, tmp_path / "i", family=family, vector_format=name, shard_size=400
    )
    assert (manifest.vector_format, manifest.format_version) == (name, version)
    index = open_index(tmp_path / "i", verify=True)
    stored = np.concatenate(list(index.vectors()))
    assert stored.dtype == np.float32
    shard = tmp_path / "i" / "vectors" / "00000.npy"
    assert shard.stat().st_size == 400 * bytes_per_vector(name, 32) + 128
    queries = table[:20]
    scores, rows = index.search(queries, 10)
    true = np.sort(queries @ stored.T, axis=1)[:, ::-1][:, :10]
    if family == "flat":
        assert np.allclose(scores, true, atol=1e-6)
    best = np.argsort(-(queries @ table.T), axis=1)[:, :10]
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), best.tolist(), strict=True)])
    assert shared >= overlap - (0.1 if family == "ivf-pq" else 0)


def test_a_build_goes_on_in_the_format_it_began_with(tmp_path: Path):
    table = clustered(50, 8)
    build_index(table_corpus(50), TableEncoder(table), tmp_path / "i", vector_format="int8")
    with pytest.raises(UserError, match="begun with vectors in int8"):
        build_index(table_corpus(50), TableEncoder(table), tmp_path / "i", resume=True)
    with pytest.raises(UserError, match="float32, float16, int8"):
        build_index(table_corpus(50), TableEncoder(table), tmp_path / "j", vector_format="float8")
