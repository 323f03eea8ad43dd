"""What progress says: speeds, estimated totals, what is loaded, and where the time went."""

import re

import pytest

from ibkd_cli.display import console
from ibkd_retrieval.progress import About


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(console, "time", found)
    return found


def test_a_slow_job_tells_seconds_for_a_step_and_the_time_left(clock, capsys):
    with console.reporter(False).task("distilling", 10, "steps") as task:
        for _ in range(5):
            clock.now += 2.5
            task.advance(1, "loss 0.5")
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "distilling: 4/10 steps in 10 s, 2.5 s/step, 15 s left · loss 0.5"
    assert last == "distilling: 5/10 steps in 12 s, 2.5 s/step · loss 0.5"


def test_the_last_step_is_told_once(clock, capsys):
    with console.reporter(False).task("tokenising", 20, "texts") as task:
        for _ in range(2):
            clock.now += 10
            task.advance(10)
    assert [line.split(" texts")[0] for line in capsys.readouterr().err.splitlines()] == [
        "tokenising: 10/20",
        "tokenising: 20/20",
    ]


def test_an_estimated_total_is_marked_and_gives_way_to_the_number_counted(clock, capsys):
    with console.reporter(False).task("reading", About(460), "documents") as task:
        clock.now = 10
        task.advance(230)
        clock.now = 20
        task.advance(223)
    first, _, last = capsys.readouterr().err.splitlines()
    assert first == "reading: 230/~460 documents in 10 s, 23 documents/s, 10 s left"
    assert last == "reading: 453 documents in 20 s, 23 documents/s"


def test_a_long_note_leaves_a_bar_its_figures_and_an_estimate_gives_way_to_the_count():
    from io import StringIO

    from rich.console import Console

    progress, shown = console.reporter(False), StringIO()
    progress._console = Console(file=shown, force_terminal=True, width=100, **console.AS_IT_IS)
    note = "loss 1.577 keep 1.04 regression 0.1063 hsic 0.02919 · 57 texts/s · dev mrr@10 0.2236 (before training)"
    with progress.task("distilling", About(30), "steps") as task:
        task.advance(12, note)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "0/~30 steps" in text
    assert "12/12 steps" in text
    assert " ".join(note.split()) in " ".join(text.split())


def test_the_time_is_told_by_job_and_a_job_within_another_is_part_of_it(clock, capsys):
    progress = console.reporter(False)
    clock.now += 3
    for _ in range(2):
        with progress.task("Encoding documents", 1, "documents"):
            clock.now += 4
            with progress.task("Verifying shards", 1, "shards"):
                clock.now += 1
    assert progress.took() == "took 13 s: 10 s encoding documents, 3 s loading and the rest"


def test_a_comparison_says_what_it_loads_moves_while_it_times_and_tells_where_the_time_went(shell, chain):
    indexes = ("--index", chain.teacher_index, "--index", chain.student_index)
    said = shell.must("compare", *indexes, "--rounds", 2, "--no-peak-memory", "--json").err.splitlines()
    loaded = [place for place, line in enumerate(said) if line.startswith("loading ")]
    for place, folder in zip(loaded, (chain.teacher_index, chain.student_index), strict=True):
        assert said[place].startswith(f"loading {folder}: 200 documents, model ")
    assert loaded[-1] < min(place for place, line in enumerate(said) if line.startswith("Timing"))
    (queries,) = [line for line in said if line.startswith("Timing queries of pages: ")]
    # 20 queries one by one and one batch, twice, through two systems.
    assert "84/84 timings" in queries
    assert re.search(r"^took \d+ s", said[-1])


def test_an_index_and_an_import_tell_where_the_time_went(chain):
    assert re.search(r"^took \d+ s", chain.said["index"].err.splitlines()[-1])
    assert "Encoding documents: 200/200 documents" in chain.said["index"].err
