"""What a machine without a GPU can tell of the GPU path: the announcement, and the wiring on a stand-in for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.indexing_fakes import Listener, TableEncoder, clustered, table_corpus
from ibkd_retrieval.indexing import faiss_binding
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.faiss_binding import gpu_count, load_faiss, to_gpu, with_plain_codes
from ibkd_retrieval.indexing.families import family_named
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.indexing.vectors import ArrayVectors
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
    other = Listener()
    build_index(table_corpus(1000), TableEncoder(table), tmp_path / "i", family="ivf-pq", device="cuda", progress=other)
    assert sum("trained on the CPU" in said for said in other.said) == 1
    index = open_index(tmp_path / "i", device="cuda", progress=listener)
    assert "searched on the CPU" in listener.said[-1]
    assert index.search(table[:2], 1)[1].ravel().tolist() == [0, 1]


@pytest.mark.parametrize("name", ["ivf-flat", "ivf-pq", "sq8", "rabitq"])
def test_k_means_runs_on_the_indexes_that_are_moved_to_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch):
    moved = []

    def stand_in(index, number):
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
    def refuse(index, number):
        raise RuntimeError("This type of index is not implemented")

    monkeypatch.setattr(faiss_binding, "gpu_count", lambda: 1)
    monkeypatch.setattr(faiss_binding, "_on_gpu", refuse)
    index = load_faiss().index_factory(16, "HNSW16", load_faiss().METRIC_INNER_PRODUCT)
    listener = Listener()
    assert to_gpu(index, "cuda", listener) is index
    assert listener.said == ["faiss has no IndexHNSWFlat for a GPU: it is searched on the CPU."]
    assert np.array_equal(index.search(np.zeros((1, 16), dtype=np.float32), 1)[1], [[-1]])


@pytest.mark.parametrize("lists", ["IVF20", "IVF20_HNSW8"])
def test_codes_unpacked_for_a_gpu_score_as_those_packed_for_the_cpu(lists: str):
    faiss, table = load_faiss(), clustered(1500, 16)
    packed = faiss.index_factory(16, f"{lists},PQ4x4fs", faiss.METRIC_INNER_PRODUCT)
    packed.train(table)
    packed.add(table)
    plain = with_plain_codes(packed)
    assert (plain.ntotal, plain.code_size) == (1500, 2)
    packed.nprobe = plain.nprobe = 20
    scores, rows = packed.search(table[:50], 100)
    unpacked_scores, unpacked_rows = plain.search(table[:50], 100)
    # The packed ones are summed in eight bits.
    assert np.abs(scores - unpacked_scores).max() < 0.02
    assert np.mean([len(set(a) & set(b)) for a, b in zip(rows, unpacked_rows, strict=True)]) > 90
