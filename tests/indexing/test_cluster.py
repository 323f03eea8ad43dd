"""Encoding on a Ray cluster of this machine: a head without CPUs, and nodes of one CPU each."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, LoadFake, LoadTelling, numbered_corpus
from helpers.ray_nodes import IMPATIENT, add_node, behind, driver, isolated_node, namespace, started
from ibkd_retrieval import cluster, cluster_dispatch
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building import ranges
from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.layout import STAGING
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.progress import SILENT

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return build_index(numbered_corpus(95), HashingEncoder(), tmp_path_factory.mktemp("alone") / "i", shard_size=10)


def built(folder: Path, load: LoadFake, count: int | None = None, weight_hash: str = "0a", **settings):
    processes = ClusterEncoders(Cluster("auto", count), load, weight_hash, settings.get("progress", SILENT))
    return build_index(numbered_corpus(95), HashingEncoder(), folder, shard_size=10, processes=processes, **settings)


@pytest.mark.parametrize("count", [None, 1])
def test_a_cluster_makes_the_files_of_one_machine(nodes, alone, tmp_path, count):
    listener = Listener()
    manifest = built(tmp_path / "i", LoadFake(), count, progress=listener)
    assert manifest.files == alone.files
    assert listener.done["Encoding documents"] == 95
    assert listener.said
    assert all(
        re.fullmatch(r"Node .* encodes, and writes its vectors into the index folder\.", each) for each in listener.said
    )
    assert not (tmp_path / "i" / STAGING).exists()
    verify_index(tmp_path / "i")


def test_an_encoder_of_a_cluster_is_pinned_to_no_core(nodes, tmp_path):
    # Processes of several commands share a node, and each would count its cores from the first.
    processes = ClusterEncoders(Cluster("auto"), LoadTelling(), "0a")
    build_index(numbered_corpus(20), HashingEncoder(4), tmp_path / "i", shard_size=10, processes=processes)
    told = np.load(tmp_path / "i" / "vectors" / "00000.npy")[0]
    assert told[2] == len(os.sched_getaffinity(0))


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
    monkeypatch.setattr(cluster_dispatch, "_SLOW", 0.0)
    monkeypatch.setattr(cluster_dispatch, "_POLL", 0.05)
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


def finished(process):
    assert process.wait(120) == 0, process.stderr.read()


def until(found, seconds=60.0):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def recorded(folder):
    return len(list(folder.glob("shards/*.json")))


def test_a_killed_command_is_resumed_by_another(nodes, alone, tmp_path):
    first = driver(nodes.address, tmp_path / "i", 1.0)
    until(lambda: recorded(tmp_path / "i") >= 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished(driver(nodes.address, tmp_path / "i", 0.0, "--resume"))
    assert read_manifest(tmp_path / "i").files == alone.files
    assert not (tmp_path / "i" / STAGING).exists()


def test_ray_itself_prints_nothing_when_a_process_dies(nodes, tmp_path):
    process = driver(nodes.address, tmp_path / "i", 0.0, "--fault", "killed")
    printed, said = process.communicate(timeout=120)
    assert (printed, process.returncode) == ("", 1)
    assert "ended its encoder process 3 times" in said


def test_the_death_of_the_head_is_one_sentence_and_is_resumed_on_another_cluster(nodes, alone, tmp_path):
    with started((1,)) as lost:
        process = driver(lost.address, tmp_path / "i", 5.0, "--head-patience", "3")
        until(lambda: recorded(tmp_path / "i"))
        lost.head_node.kill_gcs_server()
        printed, said = process.communicate(timeout=120)
    assert (printed, process.returncode) == ("", 1)
    assert re.search(
        r"The head of the cluster \(.*\) does not .*: what is finished is kept; .*`resume` on another", said
    )
    assert "will terminate" not in said
    finished(driver(nodes.address, tmp_path / "i", 0.0, "--resume"))
    assert read_manifest(tmp_path / "i").files == alone.files


def test_two_commands_share_a_cluster(nodes, alone, tmp_path):
    both = [driver(nodes.address, tmp_path / name, 0.3) for name in "ab"]
    for process in both:
        finished(process)
    assert [read_manifest(tmp_path / name).files for name in "ab"] == [alone.files] * 2


NAMESPACES = pytest.mark.skipif(
    not shutil.which("unshare") or not shutil.which("ip") or os.geteuid() != 0, reason="needs the rights of root"
)


@NAMESPACES
def test_a_node_without_the_folder_sends_its_vectors(nodes, alone, tmp_path):
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$@"', "sh"]
    listener = Listener()
    with isolated_node(nodes.address, hide):
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 4)
        manifest = built(tmp_path / "i", LoadFake(sleep=1.0), progress=listener)
    until(lambda: sum(node["Alive"] for node in ray.nodes()) == 3)
    assert manifest.files == alone.files
    assert sum("encodes, and sends its vectors" in said for said in listener.said) == 1


@NAMESPACES
def test_a_disk_that_is_full_on_a_node_is_one_sentence_and_can_be_resumed(nodes, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    encoder, corpus = HashingEncoder(4096), numbered_corpus(95)
    processes = ClusterEncoders(Cluster("auto"), LoadFake(dim=4096), "0a")
    try:
        with pytest.raises(WorkFailed, match=r"On node .*: No space left on device.* what is finished is kept; "):
            build_index(corpus, encoder, small / "i", shard_size=10, processes=processes)
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        manifest = build_index(corpus, encoder, small / "i", shard_size=10, processes=processes, resume=True)
    finally:
        subprocess.run(["umount", small], check=True)
    assert manifest.files == build_index(corpus, encoder, tmp_path / "alone", shard_size=10).files


@NAMESPACES
def test_what_a_node_sends_after_it_was_cut_off_changes_nothing(alone, tmp_path):
    """A node behind a link of its own is cut off while it encodes, is declared dead, and comes back."""
    with (
        namespace() as link,
        started((1,), link.here, **IMPATIENT) as cluster,
        behind(link, cluster.address),
    ):
        building = driver(cluster.address, tmp_path / "i", 4.0)
        until(lambda: len(list((tmp_path / "i").glob(f"{STAGING}/*-*/file"))) + recorded(tmp_path / "i") >= 2)
        link.set("down")
        until(lambda: not all(node["Alive"] for node in cluster.global_state.node_table()))
        time.sleep(2)  # What it encodes is finished meanwhile.
        link.set("up")
        finished(building)
    assert read_manifest(tmp_path / "i").files == alone.files
    assert not (tmp_path / "i" / STAGING).exists()


@pytest.mark.parametrize("seen", [True, False])
def test_nodes_read_the_documents_of_a_file_that_they_see(nodes, tmp_path, monkeypatch, seen):
    monkeypatch.setattr(ranges, "LEAST_BYTES", 0)
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text number {i}"}}\n' for i in range(95)))
    # The path is there for nodes as well, but their working folder is another.
    corpus = open_corpus(str((tmp_path if seen else Path("/proc/self/cwd")) / "corpus.jsonl"))
    alone = build_index(corpus, HashingEncoder(), tmp_path / "alone", shard_size=10)
    listener = Listener()
    processes = ClusterEncoders(Cluster("auto"), LoadFake(), "0a", listener)
    manifest = build_index(corpus, HashingEncoder(), tmp_path / "i", shard_size=10, processes=processes)
    assert (manifest.files, manifest.corpus) == (alone.files, alone.corpus)
    told = "reads the corpus, writes its vectors and documents into" if seen else "does not see the corpus, writes its"
    assert all(told in each for each in listener.said)
    assert listener.said
