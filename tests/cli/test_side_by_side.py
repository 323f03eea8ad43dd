import pytest
from rich.console import Console

from ibkd_cli.display.answers import in_columns, marks
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.search.hits import Hits
from ibkd_retrieval.search.runs import Hit


def found(name, *doc_ids):
    hits = [
        Hit(rank, 1 - rank / 100, i, Document(i, f"the text of {i} " * 30, f"title of {i} " * 20))
        for rank, i in enumerate(doc_ids, 1)
    ]
    return Hits("text", tuple(hits), name, 50, 1.25)


def test_marks_say_how_each_document_moved():
    left, right = found("teacher", "a", "b", "c", "d"), found("student", "c", "b", "x", "a")
    assert [mark.strip() for mark in marks(left, right)] == ["▲2", "=", "+", "▼3"]
    assert marks(left, left) == ["", "", "", ""]


@pytest.mark.parametrize("width", [100, 160])
def test_columns_fit_the_terminal_and_hold_every_hit_of_both(width):
    left, right = found("teacher", "a", "b", "c"), found("student", "c", "x")
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(in_columns((left, right), console.width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert "teacher" in lines[0]
    assert lines[0].index("student") == width // 2 + 1
    assert len(lines) == 2 + 2 * 3
    assert [line.split()[0] for line in lines[2::2]] == ["1", "2", "3"]
    assert "▲2" in lines[2]
    assert "+" in lines[4]
