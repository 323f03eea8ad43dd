import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.programs import environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, is_leftover, make_folder, require_writable, temporary_name


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


@pytest.mark.parametrize("made", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_refused_and_left_as_it_is(tmp_path, made, linked):
    path = tmp_path / "there"
    made(path)
    before = path.stat()
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    for refusing in (require_writable, write):
        with pytest.raises(UserError, match="name a file"):
            refusing(path)
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    assert len(list(tmp_path.iterdir())) == 1 + linked


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/../dev/stderr", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_is_no_place_for_a_file_that_is_renamed(path):
    with pytest.raises(UserError, match="leave the option out"):
        require_writable(path)


@pytest.mark.parametrize("before", [b"old", None])
def test_the_file_that_a_link_points_to_is_written(tmp_path, before):
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "target", tmp_path / "link"
    if before is not None:
        target.write_bytes(before)
    link.symlink_to("data/target")
    require_writable(link)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["target"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    write(path)
    with pytest.raises(TypeError):
        write(path, "no bytes")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "run.tsv"
    write(path)
    path.chmod(0o600)
    write(path, b"newer")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b"newer"


def test_names_of_temporary_files_are_not_foreseen_and_what_lies_there_is_not_written_through(tmp_path, monkeypatch):
    path, secret = tmp_path / "file", tmp_path / "secret"
    assert temporary_name(path) != temporary_name(path)
    assert is_leftover(temporary_name(path))
    secret.write_bytes(b"mine")
    planted = tmp_path / ".file.7.tmp"
    planted.symlink_to(secret)
    monkeypatch.setattr("ibkd_retrieval.files.temporary_name", lambda path: planted)
    with pytest.raises(FileExistsError):
        write(path)
    assert secret.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["run.trec", "x" * 255])
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_file_and_nothing_else_is(tmp_path, name):
    path = tmp_path / name
    script = "import sys; from ibkd_retrieval.files import *; print(temporary_name(Path(sys.argv[1])))"
    program = [sys.executable, "-c", script, str(path)]
    gone = subprocess.run(program, env=environment(), stdout=subprocess.PIPE, check=True, text=True)
    left, living = Path(gone.stdout.strip()), temporary_name(path)
    elsewhere = left.with_name(f"{left.name[:-15]}{(int(left.name[-15:-11]) + 1) % 10_000:04d}{left.name[-11:]}")
    others = tmp_path / ".other.trec.7.tmp"
    for each in (left, living, elsewhere, others):
        each.write_bytes(b"half")
    write(path)
    assert set(tmp_path.iterdir()) == {path, living, elsewhere, others}


@pytest.mark.parametrize("name", ["x" * 250, "é" * 125, "x" * 255])
def test_a_name_that_the_file_system_takes_is_taken(tmp_path, name):
    require_writable(tmp_path / name)
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "x" * 300 + "/file"])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, name):
    for refusing in (require_writable, write):
        with pytest.raises(UserError, match="give a shorter one"):
            refusing(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_made_are_made_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("ibkd_retrieval.files.sync_directory", synced.append)
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert synced == [tmp_path / "a", tmp_path]
    assert make_folder(tmp_path / "a" / "b") == []


def test_a_full_disk_is_told_with_the_file_that_does_not_fit(tmp_path):
    with pytest.raises(OSError, match=r"No space left.*run\.trec") as raised, atomic_write(tmp_path / "run.trec"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "run.trec")
