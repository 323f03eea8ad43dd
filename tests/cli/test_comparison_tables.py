import dataclasses
import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from helpers.sample_reports import SYSTEMS, missed_bar, sample_comparison
from ibkd_cli.display.comparison import draw_comparison, print_comparison
from ibkd_cli.display.console import AS_IT_IS

SIX = ("ndcg@10", "mrr@10", "recall@100", "map@100", "precision@10", "recall@1000")


def drawn(comparison, width):
    text = io.StringIO()
    draw_comparison(Console(file=text, width=width, **AS_IT_IS), comparison)
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "make",
    [
        lambda: sample_comparison(systems=5, queries=20, bars=[missed_bar()]),
        lambda: sample_comparison(systems=12, data_sets=8, queries=3),
        lambda: sample_comparison(systems=4, queries=5, metrics=SIX),
        lambda: sample_comparison(systems=1, queries=1, timed=False),
        lambda: sample_comparison(systems=2, queries=5, names=["検索" * 40, "name-" * 30]),
        lambda: sample_comparison(systems=3, queries=5, scanned={0, 2}),
        lambda: sample_comparison(systems=2, queries=5, values=lambda number, first, _: first * number),
    ],
)
def test_nothing_is_wider_than_the_terminal_nor_cut(make, width):
    comparison = make()
    shown = drawn(comparison, width)
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert "…" not in shown
    assert not re.search(r"\b(nan|inf|None)\b", shown)
    for metric in comparison.metrics:
        for system in comparison.systems:
            assert f"{comparison.averages[system.name][metric].mean:.4f}" in shown


def test_names_in_headings_and_rows_are_no_markup():
    comparison = sample_comparison(systems=2, queries=5, data_sets=2, names=["[bold]a[/x]", ":key:[cls]"])
    named = [dataclasses.replace(data, name=f"[red]{data.name}:a:") for data in comparison.data_sets]
    shown = drawn(dataclasses.replace(comparison, data_sets=tuple(named)), 200)
    for name in ("[bold]a[/x]", ":key:[cls]", "[red]scif", "act:a:"):
        assert name in shown.replace("…", "")


def test_bars_are_as_long_as_what_they_stand_for():
    comparison = sample_comparison(systems=4, queries=20)
    lines = drawn(comparison, 120).splitlines()
    cost = lines[next(n for n, line in enumerate(lines) if line.startswith("cost")) :]
    row = next(line for line in cost if line.startswith("student flat"))
    filled = [len(bar) for bar in re.findall(r"[█▏▎▍▌▋▊▉]+", row)]
    # 9.3 of 53.3 ms and 1,536 of 3,072 bytes, on bars of 14.
    assert filled == [3, 7]


def test_stars_stand_where_the_test_says_significant():
    comparison = sample_comparison(systems=5, queries=60, seed=1)
    shown = drawn(comparison, 120)
    quality = shown[shown.index("quality on") : shown.index("cost (")]
    for system in comparison.systems[2:]:
        # The name may go on in the next line, the figures stand in the first.
        row = next(line for line in quality.splitlines() if line.startswith(system.name[:16]) and "%" in line)
        contrasts = comparison.data_sets[0].systems[system.name].contrasts
        marks = [found == "*" for found in re.findall(r"%(\*?)", row)]
        assert marks == [contrasts[metric].randomisation_p_holm < 0.05 for metric in comparison.metrics]


def test_in_a_pipe_each_system_is_one_line(capsys):
    print_comparison(sample_comparison(systems=12, queries=5))
    lines = capsys.readouterr().out.splitlines()
    for name, *_ in SYSTEMS:
        assert len([line for line in lines if line.startswith(f"{name} ")]) >= 2
