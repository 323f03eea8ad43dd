"""Where the command keeps what outlasts it."""

from dataclasses import dataclass
from pathlib import Path

from helpers.driving import Shell


@dataclass(frozen=True)
class Astray(Shell):
    """A command line whose environment names folders that are not absolute."""

    def environment(self):
        return super().environment() | {"XDG_CACHE_HOME": "relative", "XDG_STATE_HOME": "relative"}


def test_relative_folders_of_the_environment_are_ignored_as_the_xdg_specification_has_it(
    tmp_path, distilling, monkeypatch
):
    from ibkd_cli.display.prompt import history_file

    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    Astray(here, home).must(*distilling)
    assert not (here / "relative").exists()
    assert list((home / ".cache" / "ibkd" / "teachers").iterdir())
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(home))
    assert history_file() == Path(home) / ".local" / "state" / "ibkd" / "search-history"
