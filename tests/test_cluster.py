"""Calling functions on the nodes of a Ray cluster of this machine."""

import errno
import time

import numpy as np
import pytest

from helpers.ray_nodes import marked, together
from ibkd_retrieval import cluster_group
from ibkd_retrieval.cluster import Cluster
from ibkd_retrieval.cluster_group import run_together
from ibkd_retrieval.errors import UserError, WorkFailed

pytestmark = pytest.mark.cluster


def calls(items, *common, function=marked, **settings):
    return Cluster("auto").run(
        function, iter(items), given=lambda item: (item,), called=lambda item: f"Item {item}", common=common, **settings
    )


def test_each_item_comes_back_with_its_answer_and_its_node(nodes):
    numbers = np.arange(1000)
    found = list(calls(["a", "b", "c", "d"], numbers))
    assert {item: answer for item, answer, _ in found} == {item: (item, 499_500) for item in "abcd"}
    assert len({node for *_, node in found}) == 2


def test_items_are_taken_only_when_there_is_a_place_for_them(nodes):
    taken = []

    def items():
        for each in "abcdefgh":
            taken.append(each)
            yield each

    running = calls(items(), np.zeros(1))
    next(running)
    assert len(taken) <= 4
    running.close()


@pytest.mark.parametrize(
    ("item", "error", "sentence"),
    [
        ("user", UserError, "On node .*: No such thing"),
        ("failed", WorkFailed, "On node .*: Nothing is left"),
        ("bug", WorkFailed, "On node .*: Adding failed with ZeroDivisionError"),
        ("full", OSError, "On node .*: No space left on device: /there"),
        ("killed", WorkFailed, "Item killed ended its adding process 3 times, .*: run this again with less"),
    ],
)
def test_an_error_on_a_node_is_one_sentence(nodes, item, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        list(calls([item], np.zeros(1), doing="Adding", process="adding process", resumes=False, advice=" with less"))
    assert item != "full" or raised.value.errno == errno.ENOSPC


def test_what_still_runs_is_ended_when_the_caller_stops(nodes, tmp_path):
    running = calls([tmp_path / "a", "b"], np.zeros(1))
    next(running)
    running.close()
    time.sleep(2.5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("user", UserError, r"On node .*: No such thing\."),
        ("killed", WorkFailed, "Adding ended its processes on the cluster 1 times"),
    ],
)
def test_an_error_in_a_process_of_a_group_ends_all_with_one_sentence(nodes, monkeypatch, fault, error, sentence):
    monkeypatch.setattr(cluster_group, "_MOST_CRASHES", 1)
    monkeypatch.setattr(cluster_group, "_UNTIL_KNOWN", 2.0)
    heard = []
    with pytest.raises(error, match=sentence):
        run_together(Cluster("auto"), together, (fault,), most=5, heard=heard.append, said=print, doing="Adding")
    assert ("rank", 1) in heard
