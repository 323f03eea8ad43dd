"""An index that is searched on the nodes of a cluster answers as one that is searched here."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import TableEncoder, clustered, table_corpus
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing import cluster_search
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.cluster_search import NodeSearch
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.index import StoredIndex, open_index

COUNT, DIM, ASKED = 3000, 32, 200
SHARD = 1024  # faiss multiplies this many vectors at once. The last bits of scores depend on that.


class Here:
    """Calls the function in this process, for the last item first."""

    def run(self, function, items, *, given, called, common, **_):
        for item in reversed(list(items)):
            assert called(item)
            yield item, function(*common, *given(item)), "here"


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    table = clustered(COUNT + ASKED, DIM)
    table[100:140] = table[99]  # Equal scores.
    return table


@pytest.fixture(scope="module", params=["flat", "sq8", "sq8 in parts", "ivf-pq in parts", "hnsw"])
def folder(request: pytest.FixtureRequest, table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("spread") / "index"
    name, parts = request.param.split()[0], 3 if "parts" in request.param else None
    fixed = {"nprobe": 8, "refine": 8} if parts else {}
    build_index(
        table_corpus(COUNT),
        TableEncoder(table),
        made,
        family=family_named(name, **fixed),
        shard_size=SHARD,
        parts=parts,
    )
    if name != "flat":
        delete_documents(made, ["d5", "d2000"])
    return made


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_search, "_LEAST_ROWS", 500)


def spread(folder: Path, *, cluster=None, exact_merge: bool = True) -> StoredIndex:
    index = open_index(folder, memory_limit=0)
    return index.on_nodes(NodeSearch(cluster or Here(), folder, index.manifest, exact_merge=exact_merge))


def test_pieces_give_what_the_whole_index_gives(folder: Path, table: np.ndarray, small_pieces: None):
    here, there = open_index(folder), spread(folder)
    allowed = np.random.default_rng(0).random(COUNT) < 0.5
    for mask in (None, allowed):
        for k in (10, COUNT + 5):
            one, other = (index.search(table[COUNT:], k, allowed=mask) for index in (here, there))
            np.testing.assert_array_equal(one[0], other[0])
            if here.manifest.search.is_exact:
                np.testing.assert_array_equal(one[1], other[1])


def test_many_allowed_rows_are_filtered_on_the_nodes(
    folder: Path, table: np.ndarray, small_pieces: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ibkd_retrieval.indexing.index.EXACT_ALLOWED_ROWS", 10)
    allowed = np.random.default_rng(0).random(COUNT) < 0.5
    here = open_index(folder)
    # With a filter faiss compares vectors in memory one by one, which rounds otherwise.
    here = open_index(folder, memory_limit=0) if here.manifest.search.is_exact else here
    one, other = (index.search(table[COUNT:], 10, allowed=allowed) for index in (here, spread(folder)))
    np.testing.assert_array_equal(one[0], other[0])
    assert allowed[other[1]].all()


def test_refinement_inside_the_parts_is_at_least_as_good(folder: Path, table: np.ndarray, small_pieces: None):
    exact = open_index(folder).exactly().search(table[COUNT:], 10)[1]
    params = None if open_index(folder).manifest.search.is_exact else SearchParams(refine=2)
    if params is not None and open_index(folder).manifest.family != "hnsw":
        params = SearchParams(nprobe=4, refine=2)
    shares = []
    for index in (open_index(folder), spread(folder, exact_merge=False)):
        rows = index.search(table[COUNT:], 10, params)[1]
        shares.append(np.mean([len(set(a) & set(b)) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]))
    assert shares[1] >= shares[0]


def test_a_node_without_the_folder_and_a_changed_index_are_one_sentence(table: np.ndarray, tmp_path: Path):
    made = tmp_path / "i"
    build_index(table_corpus(COUNT), TableEncoder(table), made, family="sq8", shard_size=SHARD, parts=2)
    index = spread(made)
    delete_documents(made, ["d1"])
    with pytest.raises(UserError, match="was changed while it was searched: search again"):
        index.search(table[:3], 10)
    (tmp_path / "i" / "index.json").unlink()
    with pytest.raises(UserError, match=r"There is no index in .*: give the nodes a folder that they share"):
        index.search(table[:3], 10)


@pytest.mark.cluster
def test_a_search_on_nodes_survives_the_death_of_one(
    folder: Path, table: np.ndarray, nodes, small_pieces: None, one_thread: None
):
    from helpers.ray_nodes import add_node

    third = add_node(nodes)
    index = spread(folder, cluster=Cluster("auto"))
    due = open_index(folder).search(table[COUNT:], 10)
    killer = threading.Thread(target=lambda: (time.sleep(2), nodes.remove_node(third, allow_graceful=False)))
    killer.start()
    while killer.is_alive():
        found = index.search(table[COUNT:], 10)
        np.testing.assert_array_equal(due[0], found[0])
    np.testing.assert_array_equal(due[0], index.search(table[COUNT:], 10)[0])
