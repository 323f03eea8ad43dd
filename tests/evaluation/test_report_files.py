import json
import re
import struct

import pytest

from helpers.sample_reports import missed_bar, sample_comparison
from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.evaluation.compare.rankings import shortened
from ibkd_retrieval.evaluation.compare.report import read_comparison
from ibkd_retrieval.evaluation.formatting import moment
from ibkd_retrieval.evaluation.report import summary_sentence, write_report
from ibkd_retrieval.evaluation.report.write import comparison_as_markdown

ATTACK = "<script>alert(1)</script> | `code` *bold* [link](http://example.org)\nsecond line"


def tables(markdown):
    """Runs of lines that begin with a bar."""
    return [found.group().splitlines() for found in re.finditer(r"(?:^\|.*\n)+", markdown, re.MULTILINE)]


def cells(line):
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_the_report_is_four_files_that_hold_the_comparison(tmp_path):
    pytest.importorskip("matplotlib")
    comparison = sample_comparison(systems=3, queries=12)
    written = write_report(comparison, tmp_path / "new" / "report")
    assert [path.name for path in written] == ["report.json", "report.md", "report.html", "report.png"]
    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == sorted(p.name for p in written)
    assert read_comparison(written[0]) == comparison
    sentence = summary_sentence(comparison)
    assert sentence.replace("\N{NO-BREAK SPACE}", " ") in written[1].read_text("utf-8")
    assert sentence.replace("'", "&#39;") in written[2].read_text("utf-8")
    picture = written[3].read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, 600 < height < 1200) == (1600, True)


@pytest.mark.parametrize(("scanned", "data_sets"), [({0}, 1), ({1}, 2), ({0, 1, 2}, 2)])
def test_the_report_is_drawn_where_indexes_are_scanned(tmp_path, scanned, data_sets):
    pytest.importorskip("matplotlib")
    comparison = sample_comparison(systems=3, data_sets=data_sets, queries=12, scanned=scanned)
    written = write_report(comparison, tmp_path)
    assert len(written) == 4
    (line,) = re.findall(r"^\| student flat \|.*", written[1].read_text("utf-8").partition("kept")[2], re.M)[:1]
    per_document, share = cells(line)[6:8]
    assert per_document.strip() == ("–" if 2 in scanned else "1.54 kB")
    assert share.strip() == ("–" if scanned & {0, 2} else "50.0 %")
    assert ("Quality and memory" in written[2].read_text("utf-8")) == (scanned != {0, 1, 2})


def test_without_the_drawing_packages_the_data_and_the_tables_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr("ibkd_retrieval.evaluation.report.canvas.find_spec", lambda name: None)
    comparison = sample_comparison(systems=3, queries=12)
    with pytest.raises(MissingPackage, match=r"pip install 'ibkd-retrieval\[report\]'"):
        write_report(comparison, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert read_comparison(tmp_path / "report.json") == comparison
    assert "report.png" not in (tmp_path / "report.md").read_text("utf-8")


def test_the_same_comparison_gives_the_same_files(tmp_path):
    pytest.importorskip("matplotlib")
    comparison = sample_comparison(systems=2, queries=12)
    once, again = (write_report(comparison, tmp_path / name) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


@pytest.mark.parametrize(
    "make",
    [
        lambda: sample_comparison(systems=5, data_sets=3, queries=9, bars=[missed_bar()]),
        lambda: sample_comparison(systems=1, queries=1, timed=False),
        lambda: sample_comparison(systems=2, queries=4, names=["a", ATTACK], query_text=ATTACK),
        lambda: sample_comparison(systems=2, queries=4, values=lambda number, first, _: first * number),
    ],
)
def test_every_row_of_a_markdown_table_has_a_cell_for_each_heading(make):
    comparison = make()
    markdown = comparison_as_markdown(comparison)
    # Main, encoders and what larger corpora cost; per data set each metric, search and indexes.
    timed = comparison.systems[0].cost is not None
    found = tables(markdown)
    assert len(found) == 2 + timed + len(comparison.data_sets) * (len(comparison.metrics) + 2)
    for lines in found:
        assert len({len(cells(line)) for line in lines}) == 1
        assert len(lines) == 2 + len(comparison.systems)
    assert not re.search(r"\b(nan|inf|None)\b", markdown)
    assert "<script" not in markdown.replace(r"\<", "")
    assert not re.search(r"(?<!\\)\]\(http", markdown)


def test_figures_in_markdown_are_those_of_the_record():
    comparison = sample_comparison(systems=3, queries=30)
    main, quality, *_ = tables(comparison_as_markdown(comparison))
    result = comparison.data_sets[0].systems["student flat"]
    assert cells(main[4])[1].strip().startswith(f"{result.scores['ndcg@10'].mean:.4f} (")
    row = [cell.strip() for cell in cells(quality[4])]
    contrast = result.contrasts["ndcg@10"]
    assert row[0] == "student flat"
    assert row[2].split(" (")[0].replace(
        "\N{NO-BREAK SPACE}", " "
    ) == f"{result.scores['ndcg@10'].retention:.1%}".replace("%", " %")
    assert row[3].startswith(f"{contrast.difference:+.4f}".replace("-", "−"))
    assert row[6] == f"{contrast.wins} / {contrast.ties} / {contrast.losses}"


def test_the_json_has_no_number_that_json_lacks(tmp_path):
    comparison = sample_comparison(systems=2, queries=4, values=lambda number, first, _: first * number)
    text = json.dumps(comparison.to_json(), allow_nan=False)
    assert '"retention": null' in text


def test_the_spread_of_a_factor_is_told_with_more_digits_than_the_factor(tmp_path):
    markdown = comparison_as_markdown(sample_comparison(systems=3, queries=12))
    spreads = re.findall(r"[\d.]+\s× \(([\d.]+) to ([\d.]+)\s×\)", markdown)
    assert spreads
    assert all(len(bound.replace(".", "")) >= 3 for pair in spreads for bound in pair)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short " * 10, "short " * 10),
        ("word " * 60, ("word " * 40).rstrip() + "…"),
        ("w" * 300, "w" * 200 + "…"),
        ("a" * 200 + " b", "a" * 200 + "…"),
    ],
)
def test_long_texts_are_cut_between_words(text, shown):
    assert shortened(text) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [("2026-11-23T21:17:15Z", "2026-11-23 21:17 UTC"), ("yesterday", "yesterday"), ("", "")],
)
def test_a_moment_is_told_to_the_minute(written, shown):
    assert moment(written) == shown
