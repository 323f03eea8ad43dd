"""Batches of queries on a cluster, through the public functions."""

from contextlib import contextmanager

import numpy as np
import pytest

from helpers.indexing_fakes import clustered
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing import cluster_search, index
from ibkd_retrieval.indexing.api import import_vectors
from ibkd_retrieval.search.api import open_index
from ibkd_retrieval.search.options import RankerOptions, check_ranking

COUNT = 3000


def test_options_of_a_cluster_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="A cluster searches by vectors"):
        check_ranking(RankerOptions(engine="bm25", cluster="auto"))
    with pytest.raises(UserError, match="`exact_merge` says how a cluster searches: give `cluster` too"):
        check_ranking(RankerOptions(exact_merge=True))
    check_ranking(RankerOptions(engine="bm25", hybrid="rrf", cluster="auto", exact_merge=True))


def test_an_address_without_a_cluster_is_one_sentence(tmp_path):
    pytest.importorskip("ray")
    import_vectors([[1.0, 0.0], [0.0, 1.0]], tmp_path / "i", ids=["a", "b"])
    with pytest.raises(UserError, match="No Ray cluster answers at `cluster='localhost:1'`"):
        open_index(tmp_path / "i", cluster="localhost:1").search_batch(np.eye(2, dtype=np.float32))


def test_the_blocks_of_a_batch_share_a_connection(tmp_path, monkeypatch):
    table = clustered(60, 8)
    import_vectors(table, tmp_path / "i", ids=[f"d{row}" for row in range(60)])
    log = []

    @contextmanager
    def connected(address):
        log.append(f"open {address}")
        yield
        log.append("closed")

    def compare(nodes, queries, k, allowed):
        log.append(len(queries))
        return np.zeros((len(queries), k), np.float32), np.tile(np.arange(k), (len(queries), 1))

    monkeypatch.setattr(cluster_search, "connected", connected)
    monkeypatch.setattr(cluster_search.NodeSearch, "compare", compare)
    monkeypatch.setattr(index, "QUERIES_AT_ONCE", 25)
    open_index(tmp_path / "i", cluster="auto").search_batch(table, k=2)
    assert log == ["open auto", 25, 25, 10, "closed"]


@pytest.mark.cluster
def test_a_run_from_a_cluster_is_the_run_of_one_machine(tmp_path, nodes, one_thread):
    table = clustered(COUNT + 100, 32)
    import_vectors(table[:COUNT], tmp_path / "i", ids=[f"d{row}" for row in range(COUNT)])
    due = open_index(tmp_path / "i").search_batch(table[COUNT:], k=20, tag="run")
    found = open_index(tmp_path / "i", cluster="auto").search_batch(table[COUNT:], k=20, tag="run")
    due.save(tmp_path / "due.trec")
    found.save(tmp_path / "found.trec")
    assert (tmp_path / "due.trec").read_bytes() == (tmp_path / "found.trec").read_bytes()
