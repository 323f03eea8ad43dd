"""What a machine without a GPU can tell of the GPU path: the announcement, and the wiring on a stand-in for it."""

from types import SimpleNamespace

import numpy as np
import pytest
from indexing_fakes import Listener, TableEncoder, clustered, table_corpus

from ibkd_retrieval.indexing import faiss_binding
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.faiss_binding import gpu_count, load_faiss, to_gpu
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.store import open_index
from ibkd_retrieval.indexing.vector_source import ArrayVectors
from ibkd_retrieval.progress import SILENT


def test_a_faiss_without_gpu_functions_counts_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faiss_binding, "load_faiss", lambda: SimpleNamespace())
    assert gpu_count() == 0


def test_without_a_gpu_it_is_trained_and_searched_on_the_cpu_and_said(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faiss_binding, "gpu_count", lambda: 0)
    table = clustered(1000, 16)
    listener = Listener()
    built = family_named("ivf-pq").build(ArrayVectors(table), listener, device="cuda")
    assert built.index.ntotal == 1000
    assert sum("faiss sees no GPU" in said and "trained on the CPU" in said for said in listener.said) == 1
    build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family="ivf-pq")
    index = open_index(tmp_path / "i", device="cuda", progress=listener)
    assert "searched on the CPU" in listener.said[-1]
    assert index.search(table[:2], 1)[1].ravel().tolist() == [0, 1]


@pytest.mark.parametrize("name", ["ivf-flat", "ivf-pq", "sq8", "rabitq"])
def test_k_means_runs_on_the_indexes_that_are_moved_to_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch):
    moved = []

    def stand_in(index):
        moved.append(index)
        return index

    monkeypatch.setattr(faiss_binding, "gpu_count", lambda: 1)
    monkeypatch.setattr(faiss_binding, "_on_gpu", stand_in)
    table = clustered(1500, 16)
    built = family_named(name, nprobe=1).build(ArrayVectors(table), SILENT, device="cuda")
    assert built.index.ntotal == 1500
    assert [index.d for index in moved] == ([16, 4] if name == "ivf-pq" else [16])
    assert moved[0].metric_type == load_faiss().METRIC_INNER_PRODUCT
    # The centroids of the last iteration are still in the index that k-means assigned with.
    assert moved[0].ntotal == 38


def test_a_kind_of_index_that_no_gpu_has_stays_on_the_cpu_and_is_said(monkeypatch: pytest.MonkeyPatch):
    def refuse(index):
        raise RuntimeError("This type of index is not implemented")

    monkeypatch.setattr(faiss_binding, "gpu_count", lambda: 1)
    monkeypatch.setattr(faiss_binding, "_on_gpu", refuse)
    index = load_faiss().index_factory(16, "HNSW16", load_faiss().METRIC_INNER_PRODUCT)
    listener = Listener()
    assert to_gpu(index, listener) is index
    assert listener.said == ["faiss has no IndexHNSWFlat for a GPU: it is searched on the CPU."]
    assert np.array_equal(index.search(np.zeros((1, 16), dtype=np.float32), 1)[1], [[-1]])
