import dataclasses

import pytest

from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.evaluation.compare.memory import Load, measure_footprint, own_peak_bytes
from ibkd_retrieval.indexing.config import SearchParams


@pytest.mark.slow
def test_a_fresh_process_takes_what_its_model_and_index_need_and_nothing_of_this_one(world):
    load = Load.of(world.searcher("teacher-ivf-pq", search_params=SearchParams(nprobe=2)), ["river bank", "cup dish"])
    # Resident here beside all that is loaded, and no part of what the other process takes.
    ballast = bytearray(300 << 20)
    ballast[:: 1 << 12] = b"x" * len(range(0, len(ballast), 1 << 12))
    found = measure_footprint(load)
    assert 50e6 < found.before <= found.peak < found.before + len(ballast)
    assert found.peak < own_peak_bytes()
    assert found.vram is None or found.vram > 0


@pytest.mark.slow
def test_a_process_that_fails_is_said_in_a_sentence(world):
    load = Load.of(world.searcher("teacher-flat"), ["river bank"])
    with pytest.raises(WorkFailed, match=r"could not be measured: .*There is no index folder"):
        measure_footprint(dataclasses.replace(load, index="/nowhere/index"))
