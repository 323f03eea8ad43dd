import os
import signal
import threading
import time
from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, LoadFake, numbered_corpus
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.workers import EncoderProcesses
from ibkd_retrieval.indexing.format.integrity import verify_index


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_processes_makes_the_same_files(tmp_path: Path, count: int):
    listener = Listener()
    alone = build_index(numbered_corpus(95), HashingEncoder(), tmp_path / "alone", shard_size=10)
    manifest = build_index(
        numbered_corpus(95),
        HashingEncoder(),
        tmp_path / "shared",
        shard_size=10,
        processes=EncoderProcesses(count, LoadFake(sleep=0.01)),
        progress=listener,
    )
    assert manifest.files == alone.files
    assert listener.done["Encoding documents"] == 95
    verify_index(tmp_path / "shared")


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ("killed", WorkFailed, r"Encoder process \d of 2 was killed by SIGKILL while it encoded shard 4 .* `resume`"),
        ("loading", UserError, "There is no such model"),
        ("user", UserError, "Text number 3"),
        ("system", OSError, "Input/output error: /models/weights"),
        ("work", WorkFailed, "RuntimeError: out of memory"),
        ("nan", UserError, "not finite .* 'd40'"),
    ],
)
def test_what_goes_wrong_in_a_process_is_one_sentence_and_can_be_resumed(tmp_path: Path, fault, error, sentence):
    processes = EncoderProcesses(2, LoadFake(at="text of document 40", fault=fault))
    with pytest.raises(error, match=sentence):
        build_index(numbered_corpus(95), HashingEncoder(), tmp_path / "i", shard_size=10, processes=processes)
    encoder = HashingEncoder()
    whole = build_index(numbered_corpus(95), HashingEncoder(), tmp_path / "whole", shard_size=10)
    manifest = build_index(numbered_corpus(95), encoder, tmp_path / "i", shard_size=10, resume=True)
    assert manifest.files == whole.files
    if fault != "loading":
        # Shards before the one at fault are kept, all but those that the other process was at.
        assert len(encoder.encoded) <= 95 - 20


def test_no_process_is_left_after_an_interrupt(tmp_path: Path):
    import multiprocessing

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while not list((tmp_path / "i").glob("shards/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        build_index(
            numbered_corpus(500),
            HashingEncoder(),
            tmp_path / "i",
            shard_size=10,
            processes=EncoderProcesses(2, LoadFake(sleep=0.3)),
        )
    thread.join()
    assert not multiprocessing.active_children()
    build_index(numbered_corpus(500), HashingEncoder(), tmp_path / "i", shard_size=10, resume=True)
    verify_index(tmp_path / "i")
