"""One index built on a cluster with one node: the quick test of what `make test-cluster` tests at length."""

import pytest

import ibkd_retrieval as ibkd
from helpers.tiny_models import save_sentence_transformer, sentences
from ibkd_retrieval.indexing.format.manifest import read_manifest


def test_a_cluster_makes_the_files_of_one_machine(tmp_path, one_thread):
    ray = pytest.importorskip("ray")
    from helpers.ray_nodes import started

    model, texts = save_sentence_transformer(tmp_path / "model"), sentences(60)
    with started(cpus=(1,)) as nodes:
        try:
            for name, where in (("alone", {}), ("together", {"cluster": nodes.address})):
                ibkd.build_index(
                    texts, model, tmp_path / name, shard_size=10, dtype="float32", backend="torch", **where
                )
        finally:
            ray.shutdown()
    alone, together = (read_manifest(tmp_path / name).files for name in ("alone", "together"))
    assert together == alone
