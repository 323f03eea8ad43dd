"""A structure that the nodes of a cluster train and fill is the one that a single machine makes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.indexing_fakes import Listener, TableEncoder, clustered, table_corpus
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing import cluster_structure
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building import finish
from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
from ibkd_retrieval.indexing.cluster_structure import Seen, inspect
from ibkd_retrieval.indexing.families import centroids, family_named
from ibkd_retrieval.indexing.format.manifest import read_manifest

COUNT, DIM, SHARD = 3000, 32, 1024


class Here(Cluster):
    """Calls the function in this process, as a node of one CPU that sees the folder, or is `blind`."""

    blind, gpus_there, for_gpu = False, 0, False

    def run(self, function, items, *, given, called, common, suits=None, preflight=None, began=None, **_):
        if suits is None:
            assert not list(items)  # Everything is encoded.
            return
        assert preflight(*common).folder
        how = suits({"CPU": 1, "GPU": self.gpus_there}, Seen(not self.blind, self.for_gpu))
        for item in [] if how is None else reversed(list(items)):
            assert called(item)
            if began is not None:
                began(item, "here", how)
            yield item, function(*common, *given(item), *how.arguments), "here"


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return clustered(COUNT, DIM)


def built(
    table: np.ndarray, folder: Path, family: str = "ivf-pq", cluster: Cluster | None = None, lists: int = 40, **settings
):
    processes = None if cluster is None else ClusterEncoders(cluster, None, "0a")
    encoder, chosen = TableEncoder(table), family_named(family, nprobe=8, refine=4, recall=0.1, lists=lists)
    return build_index(
        table_corpus(COUNT), encoder, folder, family=chosen, shard_size=SHARD, processes=processes, **settings
    )


def again(made: Path, folder: Path, table: np.ndarray, cluster: Cluster, **settings):
    """Make the structure of a finished index once more, on a cluster."""
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    (folder / "index.json").unlink()
    return built(table, folder, cluster=cluster, resume=True, **settings)


@pytest.fixture(scope="module", params=["ivf-pq", "rabitq"])
def made(request: pytest.FixtureRequest, table: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / request.param
    built(table, folder, request.param, parts=3)
    return folder


@pytest.mark.parametrize("by_torch", [False, True])
def test_what_nodes_train_on_pieces_of_the_vectors_is_what_one_machine_trains(
    made: Path, by_torch: bool, table: np.ndarray, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster_structure, "_ROWS_AT_ONCE", 500)
    monkeypatch.setattr(centroids, "WORTH_TORCH", 0 if by_torch else 1 << 60)
    listener, threads = Listener(), torch.get_num_threads()
    torch.set_num_threads(1)
    alone = built(table, tmp_path / "i", made.name, parts=3)
    manifest = again(made, tmp_path / "j", table, Here("here"), family=made.name, parts=3, progress=listener)
    torch.set_num_threads(threads)
    assert manifest.files == alone.files
    assert (manifest.search, len(manifest.parts)) == (alone.search, 3)
    assert listener.said == ["Node here trains the structure on 1 CPUs."]
    assert not (tmp_path / "j" / "staging").exists()
    assert not (tmp_path / "j" / "parts" / "trained.faiss").exists()


def test_where_no_node_sees_the_folder_this_machine_makes_the_structure(
    made: Path, table: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Blind(Here):
        blind = True

    listener = Listener()
    manifest = again(made, tmp_path / "j", table, Blind("here"), family=made.name, parts=3, progress=listener)
    assert manifest.files == read_manifest(made).files
    assert [re.sub(r",.*", "", said) for said in listener.said] == ["This machine trains the structure"]


def test_what_a_node_cannot_write_is_read_trained_and_filled_here(
    made: Path, table: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Forgetful(Here):
        def run(self, function, items, **how):
            for number, (item, answer, node) in enumerate(super().run(function, items, **how)):
                yield item, answer if number else None, node

    monkeypatch.setattr(cluster_structure, "_ROWS_AT_ONCE", 500)
    manifest = again(made, tmp_path / "j", table, Forgetful("here"), family=made.name, parts=3)
    assert manifest.files == read_manifest(made).files


def test_large_structures_in_one_file_are_made_on_nodes_too(
    table: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = built(table, tmp_path / "i", "sq8")
    monkeypatch.setattr(finish, "WORTH_SPREADING", 1000)
    listener = Listener()
    manifest = again(tmp_path / "i", tmp_path / "j", table, Here("here"), family="sq8", progress=listener)
    assert listener.said == ["Node here trains the structure on 1 CPUs."]
    assert manifest.files == alone.files
    assert not (tmp_path / "j" / "parts").exists()


@pytest.mark.parametrize(("device", "trains"), [("auto", "a GPU"), ("cuda", "a GPU"), ("cpu", "1 CPUs")])
def test_a_node_with_a_gpu_for_faiss_trains_unless_the_device_is_the_cpu(
    device: str, trains: str, table: np.ndarray, tmp_path: Path
):
    class Fast(Here):
        gpus_there, for_gpu = 2, True

    listener = Listener()
    built(table, tmp_path / "i", "sq8", parts=2)
    again(tmp_path / "i", tmp_path / "j", table, Fast("here"), parts=2, family="sq8", device=device, progress=listener)
    assert f"Node here trains the structure on {trains}." in listener.said


def test_a_node_with_another_faiss_is_refused(made: Path):
    source = cluster_structure.Source(cluster_structure.Staging(made), (COUNT,), DIM, "1.0")
    with pytest.raises(UserError, match=r"faiss is of version .* there and 1.0 on this machine"):
        inspect(source)


def test_what_was_trained_before_the_command_ended_is_not_trained_again(table: np.ndarray, tmp_path: Path):
    class Ending(Here):
        def run(self, function, items, *, doing, **how):
            if doing == "Adding vectors":
                raise WorkFailed("No node of the cluster is left.")
            yield from super().run(function, items, doing=doing, **how)

    built(table, tmp_path / "i", parts=3)
    with pytest.raises(WorkFailed):
        again(tmp_path / "i", tmp_path / "j", table, Ending("here"), parts=3)
    for lists, said in ((20, "Node here trains the structure on 1 CPUs."), (40, "The structure was trained before")):
        listener = Listener()
        shutil.copytree(tmp_path / "j", tmp_path / f"j{lists}")
        manifest = built(
            table, tmp_path / f"j{lists}", cluster=Here("here"), parts=3, resume=True, progress=listener, lists=lists
        )
        assert listener.said[0].startswith(said)
        assert (manifest.files == read_manifest(tmp_path / "i").files) == (lists == 40)
        assert sorted(path.name for path in (tmp_path / f"j{lists}" / "parts").iterdir()) == [
            "00000.faiss",
            "00001.faiss",
            "00002.faiss",
        ]


@pytest.mark.cluster
def test_nodes_train_and_fill_and_the_death_of_the_one_that_trains_changes_nothing(
    table: np.ndarray, tmp_path: Path, nodes, one_thread: None
):
    from helpers.ray_nodes import add_node

    lost = add_node(nodes, 2)
    alone = built(table, tmp_path / "i", parts=3)

    class Killing(Listener):
        def say(self, text: str) -> None:
            super().say(text)
            if "2 CPUs" in text:
                nodes.remove_node(lost, allow_graceful=False)

    listener = Killing()
    manifest = again(tmp_path / "i", tmp_path / "j", table, Cluster("auto"), parts=3, progress=listener)
    assert manifest.files == alone.files
    assert [said.split(" trains ")[1] for said in listener.said] == [
        "the structure on 2 CPUs.",
        "the structure on 1 CPUs.",
    ]
