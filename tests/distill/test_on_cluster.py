"""Distilling on a Ray cluster of this machine, with nodes of one CPU each."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.indexing_fakes import Listener
from helpers.programs import environment
from helpers.ray_nodes import add_node
from helpers.tiny_models import sentences
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.cluster_group import check_nodes
from ibkd_retrieval.distill.api import distill
from ibkd_retrieval.errors import UserError

SETTINGS = {
    "layers": 2,
    "dim": 8,
    "steps": 100,
    "batch_size": 16,
    "bank_size": 24,
    "max_length": 24,
    "dtype": "float32",
    "eval_every": 30,
    "checkpoint_every": 5,
    "device": "cpu",
}
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ibkd_cli")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(sentences(150))))
    return path


@pytest.fixture(scope="module")
def by_torchrun(bert, corpus, tmp_path_factory):
    """The folders of a student of two processes on one machine, and of its cache."""
    root = tmp_path_factory.mktemp("torchrun")
    chosen = SETTINGS | {"teacher": bert, "corpus": corpus, "output": root / "s", "cache": root / "c"}
    options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([*LAUNCH, "distill", *options], env=environment(OMP_NUM_THREADS="1"), check=True, timeout=300)
    return root / "s", root / "c"


def on_cluster(bert, corpus, root: Path, **more):
    found = {"teacher": str(bert), "corpus": str(corpus), "output": root / "s", "cache": root / "c", "cluster": "auto"}
    return distill(**SETTINGS | found | more)


def same(one: Path, other: Path, kind: str) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob(kind))
    assert names
    assert names == sorted(path.relative_to(other) for path in other.rglob(kind))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.cluster
def test_nodes_make_the_vectors_and_the_student_of_as_many_processes_on_one_machine(
    nodes, bert, corpus, by_torchrun, tmp_path
):
    student = on_cluster(bert, corpus, tmp_path)
    same(tmp_path / "c", by_torchrun[1], "*.npy")
    same(tmp_path / "s", by_torchrun[0], "*.safetensors")
    assert student.record["config"] == json.loads((by_torchrun[0] / "ibkd.json").read_text())["config"]


@pytest.mark.cluster
def test_training_goes_on_from_its_last_checkpoint_where_a_node_dies(nodes, bert, corpus, by_torchrun, tmp_path):
    heard = Listener()
    with ThreadPoolExecutor(1) as pool:  # Ray adds nodes in the main thread alone.
        running = pool.submit(on_cluster, bert, corpus, tmp_path, progress=heard)
        while not list((tmp_path / "s").glob("checkpoints/step-*")):
            assert not running.done()
            time.sleep(0.02)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        add_node(nodes)
        running.result()
    assert "training lost a process and goes on from its last checkpoint in 2 processes" in heard.said
    assert any(said.startswith("resuming after step") for said in heard.said)
    same(tmp_path / "s", by_torchrun[0], "*.safetensors")


@pytest.mark.cluster
def test_a_node_that_does_not_see_a_file_is_named(nodes, tmp_path):
    (tmp_path / "there").touch()
    check_nodes(Cluster("auto"), str(tmp_path), ["there"])
    with pytest.raises(UserError, match=r"Node .* does not see missing: put it in a folder that all nodes share"):
        check_nodes(Cluster("auto"), str(tmp_path), ["there", "missing"])
    with pytest.raises(UserError, match=r"No node of the cluster has 64 CPUs"):
        check_nodes(Cluster("auto", cpus=64), str(tmp_path), [])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"teacher": "http://localhost/v1#m", "student": "s"}, "for a teacher that runs on its nodes, and http"),
        ({"teacher_vectors": "v.parquet", "student": "s"}, "holds vectors that are made already"),
        ({"teacher_device_map": "auto", "student": "s"}, "leave `teacher_device_map` out"),
        ({"corpus": ["a text"]}, "`corpus` is a name or a path"),
        ({"device": "cuda:1"}, "`device=cuda:1` is a GPU of this machine"),
        ({"workers": 0}, "`workers` is 0"),
        ({"worker_cpus": 2, "cluster": None}, "`worker_cpus` is for a `cluster`"),
    ],
)
def test_what_makes_no_sense_on_a_cluster_is_refused(given, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        distill(**{"cluster": "auto", "output": tmp_path / "s"} | given)
    assert not (tmp_path / "s").exists()
