import os

import pytest

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, require_writable


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
