"""Batches in parallel threads."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from helpers.tiny_models import sentences
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.threads import side_by_side, thread_count


@pytest.fixture(params=[1, 2, 3, 6, 7, 8])
def cores(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_whichever_is_done_first(cores):
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    for count in (0, 1, 2, 7, 8, 25):
        assert list(side_by_side(work, range(count))) == [item * item for item in range(count)]


def test_threads_work_at_once_with_equal_parts_of_the_cores(cores):
    threads = thread_count()
    assert threads == {1: 1, 2: 2, 3: 3, 6: 3, 7: 3, 8: 4}[cores]
    together = threading.Barrier(threads)

    def work(item: int) -> int:
        if item < 2 * threads:
            together.wait(10)  # Breaks where one comes after the other.
        return torch.get_num_threads()

    assert list(side_by_side(work, range(2 * threads + 1))) == [cores // threads] * 2 * threads + [cores]


@pytest.mark.parametrize(("cores", "idle"), [(5, 1), (7, 1), (9, 0), (10, 0), (11, 1), (12, 0), (13, 1), (15, 0)])
def test_threads_leave_no_more_than_one_core_idle(cores, idle):
    threads = thread_count(cores)
    assert 1 < threads <= 4
    assert cores % threads == idle


def test_the_last_and_what_does_not_fill_all_threads_is_given_all_cores(cores):
    own = list(side_by_side(lambda _: (threading.get_ident(), torch.get_num_threads()), range(thread_count())))
    assert own == [(threading.get_ident(), cores)] * thread_count()


def test_other_threads_have_as_many_cores_as_before(cores):
    list(side_by_side(lambda item: item, range(2 * cores + 1)))
    assert torch.get_num_threads() == cores
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == cores


def test_an_error_in_a_thread_is_raised(cores):
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    with pytest.raises(ValueError, match="five"):
        list(side_by_side(work, range(16)))


def encoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("encoding")]


def test_each_caller_has_threads_of_its_own_which_end_with_it():
    torch.set_num_threads(2)
    both = threading.Barrier(2)
    used = []
    before = set(encoding_threads())

    def caller() -> None:
        torch.set_num_threads(2)
        both.wait(10)
        used.append({*side_by_side(lambda _: time.sleep(0.005) or threading.current_thread(), range(9))})

    try:
        callers = [threading.Thread(target=caller) for _ in range(2)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
        assert not (used[0] - set(callers)) & (used[1] - set(callers))
        end = time.monotonic() + 10
        while set(encoding_threads()) - before and time.monotonic() < end:
            time.sleep(0.01)
        assert not set(encoding_threads()) - before
    finally:
        torch.set_num_threads(1)


def test_few_are_begun_ahead_and_none_once_what_they_were_for_has_failed(cores):
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.002)
        return item

    results = side_by_side(work, range(200))
    for _ in range(3):
        next(results)
    results.close()
    time.sleep(0.02)
    assert len(begun) <= 3 + 2 * thread_count()
    time.sleep(0.02)
    assert len(begun) <= 3 + 2 * thread_count()


def test_encoding_stops_where_progress_fails(bert):
    class Full:
        def advance(self, count: int = 1, note: str = "") -> None:
            raise OSError(28, "No space left on device")

    torch.set_num_threads(2)
    try:
        encoder = Encoder.load(str(bert), device="cpu", dtype="float32", batch_tokens=64)
        encoder.encode(sentences(8))
        ran = []
        vectors = encoder._vectors
        encoder._vectors = lambda *of: ran.append(1) or vectors(*of)
        with pytest.raises(OSError, match="No space") as raised:
            encoder.encode(sentences(400), progress=Full())
        time.sleep(0.1)
        assert raised.tb is not None  # What holds the frames that encode.
        assert len(ran) <= 6
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_are_those_of_one_batch_after_the_other(bert, cores, dtype):
    texts = sentences(101)
    encoder = Encoder.load(str(bert), device="cpu", dtype=dtype, batch_tokens=64)
    got = encoder.encode(texts)
    np.testing.assert_array_equal(got, encoder.encode(texts))
    torch.set_num_threads(1)
    assert encoder.batches_at_once == 1
    np.testing.assert_allclose(got, encoder.encode(texts), atol=1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own():
    code = """
import os, torch
from ibkd_retrieval.encoders.threads import side_by_side
torch.set_num_threads(2)
assert list(side_by_side(lambda item: item, range(5))) == list(range(5))
child = os.fork()
if child == 0:
    os._exit(0 if list(side_by_side(lambda item: item, range(5))) == list(range(5)) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
