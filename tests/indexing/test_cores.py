"""Each of several processes has its own part of the cores."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.indexing_fakes import LoadTelling, numbered_corpus
from ibkd_retrieval.indexing.building.workers import EncoderProcesses, UnencodedShard, share_of
from ibkd_retrieval.progress import SILENT


@given(st.integers(1, 40), st.integers(1, 12))
def test_parts_are_as_large_for_each_and_apart_while_there_are_cores(cores, count):
    parts = [share_of(range(100, 100 + cores), number, count) for number in range(count)]
    assert {len(part) for part in parts} == {max(1, cores // count)}
    used = [core for part in parts for core in part]
    assert set(used) <= set(range(100, 100 + cores))
    if count <= cores:
        assert len(set(used)) == len(used)
    else:
        assert set(used) == set(range(100, 100 + cores))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no processes")
@pytest.mark.parametrize("count", [1, 2])
def test_processes_have_threads_for_their_cores_and_keep_to_them(count, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    shards = (UnencodedShard(n, list(numbered_corpus(3).documents()), "") for n in range(8))
    with SILENT.task("Encoding", 24, "documents") as task:
        found = {
            tuple(done.vectors[0].tolist()) for done in EncoderProcesses(count, LoadTelling()).encode(shards, task)
        }
    each = max(1, len(before) // count)
    assert {told[:3] for told in found} == {(each, each, each)}
    assert {int(told[3]) for told in found} <= before
    assert os.sched_getaffinity(0) == before
