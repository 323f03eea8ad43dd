"""One writer at a time."""

import errno
import fcntl
import os
import select
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers.indexing_fakes import HashingEncoder, Listener, corpus_of, numbered_corpus
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import LOCK
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.format.writing import only_writer


class Waiting(HashingEncoder):
    """Encodes once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode(self, texts, kind="document", progress=None):
        self.begun.set()
        assert self.go_on.wait(30)
        return super().encode(texts, kind, progress)


def test_what_is_deleted_beside_an_append_is_refused_and_not_undone(tmp_path: Path):
    folder = tmp_path / "i"
    build_index(numbered_corpus(25), HashingEncoder(), folder, shard_size=10)
    encoder = Waiting()
    more = corpus_of([Document("new", "new text")], "more")
    appending = threading.Thread(target=append_documents, args=(more, encoder, folder))
    appending.start()
    assert encoder.begun.wait(30)
    with pytest.raises(UserError, match="Another process is writing to"):
        delete_documents(folder, ["d3"])
    with pytest.raises(UserError, match="Another process is writing to"):
        append_documents(more, HashingEncoder(), folder, restart=True)
    with pytest.raises(UserError, match="Another process is writing to"):
        build_index(numbered_corpus(25), HashingEncoder(), folder, overwrite=True)
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "other")
    with pytest.raises(UserError, match="Another process is writing to"):
        combine_indexes([tmp_path / "other"], folder, overwrite=True)
    encoder.go_on.set()
    appending.join()
    assert read_manifest(folder).document_count == 26
    assert delete_documents(folder, ["d3"]).document_count == 25


def test_a_process_that_ends_gives_its_folder_up_and_one_that_lives_does_not(tmp_path: Path):
    code = "import sys\nfrom pathlib import Path\nfrom ibkd_retrieval.indexing.format.writing import only_writer\n" + (
        "with only_writer(Path(sys.argv[1]), make=True):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "i")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert select.select([holder.stdout], [], [], 60)[0]
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process is writing to"), only_writer(tmp_path / "i"):
            pass
        holder.kill()
    with only_writer(tmp_path / "i"):
        pass


def test_a_thread_may_enter_twice_and_an_empty_folder_that_was_made_is_taken_away(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    with only_writer(folder, make=True), only_writer(folder):
        assert folder.is_dir()
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="No good"), only_writer(folder, make=True):
        raise UserError("No good.")
    assert not (tmp_path / "a").exists()
    with only_writer(folder, make=True):
        (folder / "file").write_text("x")
    assert (folder / "file").exists()


@pytest.mark.parametrize("held", [".", LOCK])
def test_a_folder_is_refused_whose_lock_another_machine_holds_and_one_that_an_older_version_holds(tmp_path, held):
    # A network file system does not lock folders, and older versions lock nothing else.
    flags = os.O_RDONLY if held == "." else os.O_RDWR | os.O_CREAT
    holder = os.open(tmp_path / held, flags)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="Another process is writing to"), only_writer(tmp_path):
        pass
    assert (tmp_path / held).exists()
    os.close(holder)
    with only_writer(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())


def test_what_was_made_and_removed_while_another_waited_is_made_again_and_locked(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    waiting, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with only_writer(folder, make=True, wait=waiting.set):
            (folder / "file").write_text("x")
            entered.set()
            assert leave.wait(30)

    thread = threading.Thread(target=second)
    with only_writer(folder, make=True):
        thread.start()
        assert waiting.wait(30)
        shutil.rmtree(tmp_path / "a")
    assert entered.wait(30)
    with pytest.raises(UserError, match="Another process is writing to"), only_writer(folder):
        pass
    leave.set()
    thread.join()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_lock_that_a_killed_process_left_leaves_a_folder_free_and_an_index_without_it(tmp_path: Path):
    for folder in (tmp_path / "i", tmp_path / ".i.new"):
        folder.mkdir()
        (folder / LOCK).touch()
    for overwrite in (False, True):
        build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", overwrite=overwrite)
        assert not (tmp_path / "i" / LOCK).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_where_nothing_can_be_locked_the_work_is_done_and_said_once(tmp_path: Path, monkeypatch):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i")
    said = Listener()
    build_index(numbered_corpus(5), HashingEncoder(), tmp_path / "i", overwrite=True, progress=said)
    assert len([line for line in said.said if "Nothing can be locked" in line]) == 1
    with pytest.warns(UserWarning, match=r"Nothing can be locked in .* \(No locks available\)"):
        delete_documents(tmp_path / "i", ["d3"])
