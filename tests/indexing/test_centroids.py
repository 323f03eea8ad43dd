"""k-means by torch beside faiss's: as near, for every kind of list, and the same each time."""

import numpy as np
import pytest

from helpers.indexing_fakes import clustered
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.families import centroids
from ibkd_retrieval.indexing.families.centroids import place_centroids, spherical_centroids

TABLE = clustered(4000, 32)


def nearness(found: np.ndarray) -> float:
    return float((TABLE @ found.T).max(axis=1).mean())


def test_centroids_lie_as_near_as_those_of_faiss():
    faiss = load_faiss()
    theirs = faiss.Kmeans(32, 60, niter=10, spherical=True, seed=1)
    theirs.train(TABLE)
    ours = spherical_centroids(TABLE, 60, 0)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert nearness(ours) > nearness(theirs.centroids) - 0.01
    assert np.array_equal(ours, spherical_centroids(TABLE, 60, 0))


def test_centroids_are_sound_where_most_vectors_are_the_same():
    table = np.concatenate([np.repeat(TABLE[:3], 500, axis=0), TABLE[3:60]])
    found = spherical_centroids(table, 50, 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert ((TABLE[:3] @ found.T).max(axis=1) > 0.999).all()


@pytest.mark.parametrize("factory", ["IVF40,Flat", "IVF40_HNSW8,PQ8x4fs", "RR32,IVF40,RaBitQfs", "OPQ8,IVF40,PQ8x4fs"])
def test_lists_of_every_kind_take_them(factory: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(centroids, "WORTH_TORCH", 0)
    faiss = load_faiss()
    found = []
    for placed in (True, False):
        index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
        if placed:
            place_centroids(index, TABLE, 0)
            assert faiss.extract_index_ivf(index).quantizer.ntotal == 40
        index.train(TABLE)
        assert faiss.extract_index_ivf(index).quantizer.ntotal == 40
        index.add(TABLE)
        faiss.extract_index_ivf(index).nprobe = 8
        found.append((index.search(TABLE[:500], 20)[1] == np.arange(500)[:, None]).any(axis=1).mean())
    assert found[0] > found[1] - 0.03
    assert found[0] > 0.9


@pytest.mark.parametrize("factory", ["IVF40(SQ8),Flat", "IVF40(HNSW8,SQ8),Flat"])
def test_what_finds_the_lists_and_has_to_be_trained_itself_is_left_to_faiss(
    factory: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(centroids, "WORTH_TORCH", 0)
    faiss = load_faiss()
    index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    place_centroids(index, TABLE, 0)
    index.train(TABLE)
    index.add(TABLE)
    faiss.extract_index_ivf(index).nprobe = 40
    assert (index.search(TABLE[:50], 5)[1] == np.arange(50)[:, None]).any(axis=1).mean() > 0.9
