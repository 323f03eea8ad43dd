import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from helpers.indexing_fakes import TableEncoder, clustered, table_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes, leading_dimensions
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.index import open_index

COUNT, DIM = 1500, 16
VECTORS = clustered(COUNT, DIM)
QUERIES = clustered(5, DIM, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exactly")
    build_index(table_corpus(COUNT), TableEncoder(VECTORS), folder / "flat", shard_size=400)
    for name, options in {"ivf-pq": {"lists": 12}, "hnsw": {}}.items():
        combine_indexes([folder / "flat"], folder / name, family=family_named(name, **options))
    return folder


@pytest.mark.parametrize("family", ["flat", "ivf-pq", "hnsw"])
def test_any_index_can_be_searched_exactly(folder, family):
    _, rows = open_index(folder / family).exactly().search(QUERIES, 10)
    assert rows.tolist() == np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")[:, :10].tolist()


def test_the_search_params_in_force_are_those_given_or_the_indexs_own_and_grow_with_k(folder):
    index = open_index(folder / "ivf-pq")
    own = index.manifest.search
    assert index.search_params(1, SearchParams(nprobe=3)) == SearchParams(3, own.refine)
    assert index.search_params(1) == own
    assert index.search_params(1000).nprobe == 12
    assert open_index(folder / "flat").search_params(10) == SearchParams()
    assert open_index(folder / "hnsw").search_params(10, SearchParams(ef_search=33)).ef_search == 33
    with pytest.raises(UserError, match="is not an HNSW graph"):
        index.search_params(10, SearchParams(ef_search=4))


def test_the_search_params_grid_doubles_up_to_all_there_is(folder):
    assert [each.nprobe for each in open_index(folder / "ivf-pq").search_params_grid()] == [1, 2, 4, 8, 12]
    kept = [each.ef_search for each in open_index(folder / "hnsw").search_params_grid()]
    assert all(high == 2 * low for low, high in pairwise(kept))
    assert open_index(folder / "flat").search_params_grid() == ()


def test_cut_vectors_are_of_unit_length_where_the_whole_ones_were():
    vectors = np.array([[0.6, 0.0, 0.8], [3, 4, 12], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
    assert leading_dimensions(vectors, 2) == pytest.approx(np.array([[1, 0], [3, 4], [0, 0], [0, 0]]))
    assert leading_dimensions(vectors, 3) is vectors


def test_vectors_are_cut_for_the_model_that_made_them_only(folder, tmp_path):
    encoder = read_manifest(folder / "flat").encoder

    def combine(**changes):
        combine_indexes([folder / "flat"], tmp_path / "cut", cut=dataclasses.replace(encoder, **changes))

    with pytest.raises(UserError, match="have 16 dimensions and cannot be cut to 17"):
        combine(dim=17)
    with pytest.raises(UserError, match="were made with hashing: cut them for that model"):
        combine(dim=8, name="other")
    combine(dim=8, weight_hash="cut")
    cut = open_index(tmp_path / "cut")
    assert (cut.manifest.dim, cut.manifest.encoder.weight_hash, len(cut)) == (8, "cut", COUNT)
    whole = VECTORS[:, :8]
    assert np.concatenate(list(cut.vectors())) == pytest.approx(whole / np.linalg.norm(whole, axis=1)[:, None])
    assert cut.document(77).text == "77"
