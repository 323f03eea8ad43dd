"""An index is replaced by another: killed anywhere, there is a whole one, and the same command goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import finished_indexes, read_manifest

# Ends like a kill, without a word and without cleaning up, before the n-th operation that changes a file or a folder.
KILLED_AT_EACH = """
import os, shutil, sys
sys.path[:0] = {path!r}
from helpers.indexing_fakes import HashingEncoder, numbered_corpus
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format import writing
from ibkd_retrieval.indexing.faiss_binding import load_faiss
load_faiss()
{setup}
CHANGING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "ibkd.exchange")

def kill_at(number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        writing = event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wxa+")
        if event in CHANGING or writing:
            seen += 1
            if seen == number:
                os._exit(9)
    sys.addaudithook(hook)

work, number, ended = sys.argv[1], 0, False
while not ended:
    number += 1
    shutil.copytree(work + "/old", f"{{work}}/{{number}}/i")
    child = os.fork()
    if child == 0:
        kill_at(number)
        build_index(numbered_corpus(15), HashingEncoder(), f"{{work}}/{{number}}/i", shard_size=10, overwrite=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    ended = code == 0
print(number)
"""


def kills(work: Path, setup: str = "") -> int:
    """How many operations there were, and so how many kills but one; what each left is in a folder of its number."""
    tests = Path(__file__).parents[1]
    code = KILLED_AT_EACH.format(path=[str(tests), str(tests.parent)], setup=setup)
    return int(subprocess.run([sys.executable, "-c", code, str(work)], stdout=subprocess.PIPE, check=True).stdout)


def state(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("index.json", "00000.json", "00001.json")
    }


@pytest.mark.parametrize("setup", ["", "writing._EXCHANGE = 1 << 20"], ids=["exchange", "two renames"])
def test_killed_at_each_file_operation_a_whole_index_stands_and_the_same_command_replaces_it(tmp_path: Path, setup):
    build_index(numbered_corpus(25), HashingEncoder(), tmp_path / "old", shard_size=10)
    (tmp_path / "old" / "notes.txt").write_text("mine")
    (tmp_path / "old" / "vectors" / "plot.png").write_bytes(b"mine too")
    build_index(numbered_corpus(15), HashingEncoder(), tmp_path / "due", shard_size=10)
    due = state(tmp_path / "due") | {"notes.txt": b"mine", "vectors/plot.png": b"mine too"}
    number, replaced, kept = kills(tmp_path, setup), 0, 0
    for work in (tmp_path / str(each + 1) for each in range(number)):
        if (work / "i").exists() or not setup:
            rows = verify_index(work / "i").rows  # Whole: the old one, or the new one.
            assert rows in (25, 15)
            replaced, kept = replaced + (rows == 15), kept + (rows == 25)
        build_index(numbered_corpus(15), HashingEncoder(), work / "i", shard_size=10, overwrite=True)
        assert verify_index(work / "i").rows == 15
        assert state(work / "i") == due
        assert [path.name for path in work.iterdir()] == ["i"]
    assert number > 30
    assert replaced > 5
    assert kept > 5


def test_a_replacement_that_was_broken_off_is_gone_on_with(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)

    class Failing(HashingEncoder):
        def encode(self, texts, kind="document", progress=None):
            if len(self.encoded) >= 10:
                raise RuntimeError("power")
            return super().encode(texts, kind, progress)

    with pytest.raises(RuntimeError, match="power"):
        build_index(numbered_corpus(30), Failing(), folder, shard_size=10, overwrite=True)
    assert read_manifest(folder).rows == 25
    assert finished_indexes(tmp_path)[0][0] == folder
    encoder = HashingEncoder()
    build_index(numbered_corpus(30), encoder, folder, shard_size=10, resume=True)
    assert verify_index(folder).rows == 30
    assert len(encoder.encoded) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_what_is_refused_leaves_the_index_and_nothing_beside_it(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder)
    before = state(folder)
    with pytest.raises(UserError):
        combine_indexes([folder], tmp_path / "i", overwrite=True)
    (tmp_path / ".i.new").mkdir()
    (tmp_path / ".i.new" / "letter").write_text("dear")
    with pytest.raises(UserError, match="is in the way"):
        build_index(numbered_corpus(5), HashingEncoder(), folder, overwrite=True)
    assert state(folder) == before
    assert (tmp_path / ".i.new" / "letter").read_text() == "dear"


def test_an_unfinished_index_is_cleared_whatever_a_kill_left_of_it(tmp_path: Path):
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    for name in os.listdir(tmp_path / "i"):
        if not (tmp_path / "i" / name).is_dir():
            (tmp_path / "i" / name).unlink()
    for folder in ("vectors", "documents", "shards"):
        shutil.rmtree(tmp_path / "i" / folder)
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", overwrite=True)
    assert verify_index(tmp_path / "i").rows == 5
