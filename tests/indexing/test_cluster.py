"""Encoding on a Ray cluster of this machine: a head without CPUs, and nodes of one CPU each."""

import os
import threading
import time
from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, LoadFake, numbered_corpus
from helpers.ray_nodes import add_node
from ibkd_retrieval import cluster
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
from ibkd_retrieval.indexing.format.integrity import verify_index

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return build_index(numbered_corpus(95), HashingEncoder(), tmp_path_factory.mktemp("alone") / "i", shard_size=10)


def built(folder: Path, load: LoadFake, count: int | None = None, weight_hash: str = "0a", **settings):
    processes = ClusterEncoders(Cluster("auto", count), load, weight_hash)
    return build_index(numbered_corpus(95), HashingEncoder(), folder, shard_size=10, processes=processes, **settings)


@pytest.mark.parametrize("count", [None, 1])
def test_a_cluster_makes_the_files_of_one_machine(nodes, alone, tmp_path, count):
    listener = Listener()
    manifest = built(tmp_path / "i", LoadFake(), count, progress=listener)
    assert manifest.files == alone.files
    assert listener.done["Encoding documents"] == 95
    verify_index(tmp_path / "i")


def test_the_shards_of_a_node_that_dies_are_encoded_elsewhere(nodes, alone, tmp_path):
    lost = add_node(nodes, 2)

    def remove():
        while not list((tmp_path / "i").glob("shards/*.json")):
            time.sleep(0.05)
        nodes.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    manifest = built(tmp_path / "i", LoadFake(sleep=1.5))
    thread.join()
    assert manifest.files == alone.files


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("killed", WorkFailed, r"Shard 4 \(documents 'd40' to 'd49'\) ended its encoder process 3 times, .* `resume`"),
        ("loading", UserError, r"On node .* There is no such model"),
        ("user", UserError, "On node .* Text number 3"),
        ("work", WorkFailed, "On node .* RuntimeError: out of memory"),
        ("nan", UserError, "not finite .* 'd40'"),
    ],
)
def test_what_goes_wrong_on_a_node_is_one_sentence_and_can_be_resumed(nodes, alone, tmp_path, fault, error, sentence):
    with pytest.raises(error, match=sentence):
        built(tmp_path / "i", LoadFake(at="text of document 40", fault=fault))
    assert built(tmp_path / "i", LoadFake(), resume=True).files == alone.files


def test_a_slow_shard_is_encoded_twice_and_kept_once(nodes, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SLOW", 0.0)
    monkeypatch.setattr(cluster, "_POLL", 0.05)
    assert built(tmp_path / "i", LoadFake(sleep=0.5)).files == alone.files


def test_another_model_on_a_node_is_refused(nodes, tmp_path):
    with pytest.raises(UserError, match=r"Node .* has another model"):
        built(tmp_path / "i", LoadFake(), weight_hash="0b")


def test_other_software_on_a_node_is_refused(nodes, tmp_path, monkeypatch):
    ours = cluster.software()
    monkeypatch.setattr(cluster, "platform", type("Other", (), {"python_version": staticmethod(lambda: "3.99")}))
    with pytest.raises(UserError, match=rf"Node .* has Python {ours['Python']} and this machine 3.99"):
        built(tmp_path / "i", LoadFake())


def test_a_cluster_without_room_says_what_it_has(nodes, tmp_path):
    processes = ClusterEncoders(Cluster("auto", cpus=64), LoadFake(), "0a")
    with pytest.raises(UserError, match=r"No node of the cluster has 64 CPUs .* 1 CPUs and 0 GPUs.*`worker_cpus`"):
        build_index(numbered_corpus(95), HashingEncoder(), tmp_path / "i", processes=processes)


@pytest.mark.parametrize("address", ["localhost:1", "nonsense", "localhost:99999999"])
def test_no_cluster_at_the_address_is_one_sentence(tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    processes = ClusterEncoders(Cluster(address), LoadFake(), "0a")
    with pytest.raises(UserError, match=f"No Ray cluster answers at `cluster='{address}'`"):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", processes=processes)
    assert os.listdir(tmp_path) in ([], ["i"])
