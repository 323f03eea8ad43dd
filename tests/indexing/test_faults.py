"""What the system does to a long job: full disks, folders that may not be written, inputs that go away."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from helpers.programs import environment
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.lines import save_array

SMALL_FILES = """
import resource
from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.errors import WorkFailed
from ibkd_retrieval.indexing.build import build_index
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    build_index(numbered_corpus(95), HashingEncoder(), {folder!r}, shard_size=10)
except WorkFailed as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [500, 1200, 3000])
def test_files_that_find_no_room_are_one_sentence_and_the_rest_is_resumed(tmp_path: Path, limit: int):
    # A shard's vectors take 768 bytes, its documents 900, the structure of all 6 kB.
    folder = tmp_path / "i"
    script = SMALL_FILES.format(limit=limit, folder=str(folder))
    answer = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert answer.stdout.startswith(f"File too large while writing to {folder}: what is finished is kept"), answer
    assert answer.stderr == ""
    assert not list(folder.rglob("*.tmp"))
    done = len(list(folder.glob("shards/*.json")))
    assert done == {500: 0, 1200: 10, 3000: 10}[limit] or 0 < done < 10
    encoder = HashingEncoder()
    build_index(numbered_corpus(95), encoder, folder, shard_size=10, resume=True)
    assert len(encoder.encoded) == max(0, 95 - 10 * done)
    verify_index(folder)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory", "/data/part-7.gz"), EOFError("cut")]
)
def test_an_input_that_goes_away_leaves_all_that_was_read_until_then(tmp_path: Path, error: Exception):
    documents = list(numbered_corpus(95).documents())

    def vanishing() -> Iterator[Document]:
        yield from documents[:63]
        raise error

    broken = Corpus("made-up", None, vanishing)
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")):
        build_index(broken, HashingEncoder(), tmp_path / "i", shard_size=10)
    encoder = HashingEncoder()
    build_index(numbered_corpus(95), encoder, tmp_path / "i", shard_size=10, resume=True)
    assert len(encoder.encoded) == 35
    verify_index(tmp_path / "i")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "closed" / "i")


def test_a_folder_deleted_under_a_build_is_an_error_that_names_it(tmp_path: Path):
    class Deleting(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            shutil.rmtree(tmp_path / "i", ignore_errors=True)
            (tmp_path / "i").write_text("another program's")
            return super().encode(texts, kind, progress)

    with pytest.raises(UserError, match=r"i.* cannot be written"):
        build_index(numbered_corpus(5), Deleting(), tmp_path / "i")


def test_a_failing_writer_stops_an_encoder_in_the_middle_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Batching(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            parts = []
            for text in texts:
                parts.append(super().encode([text]))
                progress.advance(1)
            return np.concatenate(parts)

    replace = os.replace

    def full(source, target):
        if "vectors" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    encoder = Batching(sleep=0.005)
    with pytest.raises(WorkFailed, match="No space left"):
        build_index(numbered_corpus(2000), encoder, tmp_path / "i", shard_size=100)
    assert len(encoder.encoded) < 400


def test_arrays_are_saved_as_numpy_does(tmp_path: Path):
    for number, array in enumerate(
        [np.arange(6, dtype=np.float32).reshape(2, 3), np.empty((0, 3), np.float16), np.arange(4)]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        with open(tmp_path / "ours.npy", "wb") as file:
            save_array(file, array)
        assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / f"{number}.npy").read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path):
    def peak(count: int) -> int:
        script = f"""
from helpers.indexing_fakes import HashingEncoder
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.faiss_binding import load_faiss
from ibkd_retrieval.indexing.building.memory import plan_memory, resident_bytes
class Forgetting(HashingEncoder):
    def encode(self, texts, kind="document", progress=None):
        vectors = super().encode(texts, kind, progress)
        self.encoded.clear()
        return vectors
load_faiss()
begun = resident_bytes()
corpus = Corpus("long", None, lambda: (Document(f"d{{i}}", f"{{i}} " + "word " * 20_000) for i in range({count})))
plan = plan_memory(begun + 60_000_000, dim=16, batch_tokens=512)
build_index(corpus, Forgetting(), {str(tmp_path / str(count))!r}, memory=plan)
# Not getrusage's peak, which a child takes over from the process that forked it.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]) - begun)
"""
        program = [sys.executable, "-c", script]
        return int(subprocess.run(program, env=environment(), capture_output=True, text=True, check=True).stdout)

    # 2,000 documents of 100 kB: 200 MB of text, and a build that held a usual shard of it would take all of that.
    assert peak(2000) < 60_000_000
