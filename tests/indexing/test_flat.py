import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from indexing_fakes import TableEncoder, table_corpus

from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.store import open_index

# Multiples of 1/4 in a small range: every inner product is exact in float32, and duplicates and zeros are common.
QUARTERS = st.integers(-4, 4).map(lambda value: value / 4)


@st.composite
def problems(draw):
    n, dim, queries = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(0, 9))
    table = draw(hnp.arrays(np.float32, (n, dim), elements=QUARTERS))
    asked = draw(hnp.arrays(np.float32, (queries, dim), elements=QUARTERS))
    return table, asked, draw(st.integers(1, 50)), draw(st.integers(-(-n // 3), 45))


@settings(max_examples=40, deadline=None)
@given(problems())
def test_flat_search_returns_the_k_largest_inner_products_and_pads(problem):
    table, queries, k, shard_size = problem
    with tempfile.TemporaryDirectory() as folder:
        build_index(table_corpus(len(table)), TableEncoder(table), Path(folder) / "i", shard_size=shard_size)
        index = open_index(Path(folder) / "i", verify=True)
        scores, rows = index.search(queries, k)
        assert np.array_equal(np.concatenate(list(index.vectors())), table)
    assert scores.shape == rows.shape == (len(queries), k)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    found = min(k, len(table))
    assert (rows[:, found:] == -1).all()
    assert (scores[:, found:] == -np.inf).all()
    exact = queries @ table.T
    for query in range(len(queries)):
        assert np.array_equal(scores[query, :found], np.sort(exact[query])[::-1][:found])
        assert np.array_equal(exact[query, rows[query, :found]], scores[query, :found])
        assert len(set(rows[query, :found])) == found
