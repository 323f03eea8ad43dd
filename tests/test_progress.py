"""How functions of the library report to Python users."""

from ibkd_retrieval.progress import SILENT, as_progress


def test_true_shows_a_bar_with_its_title_and_unit(capsys):
    progress = as_progress(True)
    with progress.task("Encoding", 3, "documents") as task:
        for _ in range(3):
            task.advance(note="on cpu")
    progress.say("a remark")
    shown = capsys.readouterr().err
    assert "Encoding: 100%" in shown
    assert "3/3" in shown
    assert "documents" in shown
    assert "on cpu" in shown
    assert shown.endswith("a remark\n")


def test_false_shows_nothing_and_an_object_of_ones_own_is_taken(capsys):
    progress = as_progress(False)
    with progress.task("Encoding", None, "documents") as task:
        task.advance()
    progress.say("a remark")
    assert capsys.readouterr().err == ""
    assert as_progress(SILENT) is SILENT
