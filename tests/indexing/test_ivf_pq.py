from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import Listener, TableEncoder, clustered, table_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import IvfPq, family_named
from ibkd_retrieval.indexing.families.search_params import search_structure, set_defaults
from ibkd_retrieval.indexing.index import StoredIndex, open_index
from ibkd_retrieval.indexing.vectors import ArrayVectors, sample_rows
from ibkd_retrieval.indexing.vectors.exact import scan
from ibkd_retrieval.indexing.vectors.shard_vectors import ShardVectors

COUNT, DIM = 6000, 64


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return clustered(COUNT + 200, DIM)


@pytest.fixture(scope="module")
def index(table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> StoredIndex:
    folder = tmp_path_factory.mktemp("ivf") / "index"
    build_index(table_corpus(COUNT), TableEncoder(table[:COUNT]), folder, family="ivf-pq", shard_size=700)
    return open_index(folder)


def recall_at_10(index: StoredIndex, table: np.ndarray, **settings: int) -> float:
    queries = table[COUNT:]
    truth = np.argsort(-(queries @ table[:COUNT].T), axis=1, kind="stable")[:, :10]
    rows = index.search(queries, 10, SearchParams(**settings))[1]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]))


def test_the_recall_stated_in_the_manifest_is_met_by_queries_it_has_not_seen(index: StoredIndex, table: np.ndarray):
    defaults = index.manifest.search
    (stated,) = [
        point.recall_at_10
        for point in index.manifest.operating_points
        if (point.nprobe, point.refine) == (defaults.nprobe, defaults.refine)
    ]
    assert stated >= 0.95
    assert recall_at_10(index, table) == pytest.approx(stated, abs=0.03)


def test_scores_are_exact_inner_products_in_order(index: StoredIndex, table: np.ndarray):
    queries = table[COUNT : COUNT + 20]
    scores, rows = index.search(queries, 30)
    assert (np.diff(scores, axis=1) <= 0).all()
    expected = np.einsum("qd,qkd->qk", queries, table[:COUNT][rows])
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_query_has_the_same_answer_alone_and_in_a_batch(index: StoredIndex, table: np.ndarray):
    queries = table[COUNT:]
    scores, rows = index.search(queries, 10, SearchParams(nprobe=50, refine=16))
    for query in range(0, len(queries), 20):
        alone_scores, alone_rows = index.search(queries[query : query + 1], 10, SearchParams(nprobe=50, refine=16))
        np.testing.assert_allclose(alone_scores[0], scores[query], atol=1e-6)
        assert len(set(alone_rows[0]) & set(rows[query])) >= 9


def test_visiting_all_lists_and_refining_everything_is_exact(index: StoredIndex, table: np.ndarray):
    assert recall_at_10(index, table, nprobe=10_000, refine=COUNT) == 1.0


def test_recall_grows_with_nprobe_and_refinement(index: StoredIndex, table: np.ndarray):
    assert recall_at_10(index, table, nprobe=2) < recall_at_10(index, table, nprobe=30) - 0.1
    assert recall_at_10(index, table, nprobe=60, refine=0) < recall_at_10(index, table, nprobe=60, refine=8) - 0.05


def test_a_thousand_results_are_found_as_well_as_ten(index: StoredIndex, table: np.ndarray):
    queries = table[COUNT:]
    truth = np.argsort(-(queries @ table[:COUNT].T), axis=1, kind="stable")[:, :1000]
    rows = index.search(queries, 1000)[1]
    assert np.mean([len(set(a) & set(b)) / 1000 for a, b in zip(rows, truth, strict=True)]) > 0.95


def test_unrefined_search_pads_like_refined_search(index: StoredIndex, table: np.ndarray):
    for refine in (0, 4):
        scores, rows = index.search(table[:3], COUNT + 5, SearchParams(nprobe=1, refine=refine))
        assert scores.shape == rows.shape == (3, COUNT + 5)
        assert ((rows == -1) == (scores == -np.inf)).all()
        assert (rows[:, -5:] == -1).all()
        assert (rows[:, 0] >= 0).all()


def test_no_queries_give_no_rows(index: StoredIndex):
    scores, rows = index.search(np.empty((0, DIM), dtype=np.float32), 7)
    assert scores.shape == rows.shape == (0, 7)


def test_the_structure_takes_a_tenth_of_the_vectors_memory(index: StoredIndex):
    centroids = 4 * DIM * int(index.manifest.factory.split(",")[0].removeprefix("IVF"))
    # Lists are padded to blocks of 32, which matters only where they are as short as here.
    assert index.memory_bytes - centroids < 4 * DIM * COUNT / 4
    assert index.manifest.factory.endswith(",PQ16x4fs")


def test_training_vectors_come_from_all_shards():
    rows = sample_rows(100_000, 1000, np.random.default_rng(0))
    assert len(np.unique(rows)) == 1000
    assert np.histogram(rows, bins=10, range=(0, 100_000))[0].min() > 60


def test_exact_neighbours_over_shards_equal_those_over_the_whole(index: StoredIndex, table: np.ndarray):
    counts = [shard.documents for shard in index.manifest.shards]
    queries = table[COUNT:]
    rows = scan(queries, ShardVectors(index.folder, counts, DIM), 11)[1]
    assert np.array_equal(rows, np.argsort(-(queries @ table[:COUNT].T), axis=1, kind="stable")[:, :11])


def test_a_small_corpus_falls_back_to_flat_and_says_so(table: np.ndarray, tmp_path: Path):
    listener = Listener()
    manifest = build_index(table_corpus(999), TableEncoder(table), tmp_path / "i", family="ivf-pq", progress=listener)
    assert manifest.family == "flat"
    assert manifest.search.nprobe is None
    assert "building a flat one" in listener.said[0]


def test_options_are_obeyed(table: np.ndarray, tmp_path: Path):
    family = family_named("ivf-pq", lists=20, subquantisers=8, bits=8, nprobe=5, refine=3)
    manifest = build_index(table_corpus(1500), TableEncoder(table), tmp_path / "i", family=family)
    assert manifest.factory == "IVF20,PQ8x8np"
    assert (manifest.search.nprobe, manifest.search.refine) == (5, 3)
    assert manifest.family_options["lists"] == 20


def test_more_lists_than_can_be_trained_are_lowered_and_said(table: np.ndarray, tmp_path: Path):
    listener = Listener()
    family = IvfPq(lists=500, nprobe=4, refine=4)
    manifest = build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family=family, progress=listener)
    assert manifest.factory.startswith("IVF25,")
    assert "500 inverted lists are too many" in listener.said[0]


@pytest.mark.parametrize("dim", [1, 7, 10, 30])
def test_a_dimension_that_four_does_not_divide_is_served(dim: int, tmp_path: Path):
    table = clustered(1200, dim)
    build_index(table_corpus(1200), TableEncoder(table), tmp_path / "i", family=IvfPq(nprobe=99, refine=16))
    scores, _ = open_index(tmp_path / "i").search(table[:5], 1, SearchParams(refine=1200))
    np.testing.assert_allclose(scores[:, 0], (table[:5] @ table.T).max(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "4 or 8 bits"),
        ({"lists": 0}, "lists .* at least 1"),
        ({"refine": -1}, "refine .* at least 0"),
        ({"recall": 1.5}, "at most 1"),
        ({"speed": 3}, "no such option"),
    ],
)
def test_options_out_of_range_are_user_errors(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        family_named("ivf-pq", **options)


def test_subquantisers_that_do_not_divide_the_dimension_are_a_user_error(table: np.ndarray, tmp_path: Path):
    with pytest.raises(UserError, match="do not divide"):
        build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family=IvfPq(subquantisers=7))


def test_an_unknown_family_lists_those_known():
    with pytest.raises(UserError, match="choose one of flat, ivf-flat, ivf-pq"):
        family_named("annoy")


def test_the_nearest_lists_are_found_through_a_graph_as_well_as_without_one():
    faiss, table = load_faiss(), clustered(20_000, 32)
    queries = clustered(200, 32, seed=1)
    graph = faiss.index_factory(32, "IVF1000_HNSW8,Flat", faiss.METRIC_INNER_PRODUCT)
    graph.train(table)
    graph.add(table)
    plain = faiss.clone_index(graph)
    centroids = faiss.IndexFlatIP(32)
    centroids.add(graph.quantizer.reconstruct_n(0, 1000))
    plain.quantizer, plain.own_fields = centroids, False
    found = [
        search_structure(index, queries, 10, SearchParams(nprobe=40), ArrayVectors(table))[1]
        for index in (graph, plain)
    ]
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*found, strict=True)])
    assert same > 0.98
    set_defaults(graph, SearchParams(nprobe=40))
    assert faiss.downcast_index(graph.quantizer).hnsw.efSearch == 60
