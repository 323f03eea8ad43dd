import json
import shutil

import pytest

from helpers.tiny_models import sentences


def test_a_model_is_correlated_with_the_scores_of_each_set(shell, teacher):
    texts = sentences(40)
    lines = [f"{number % 6}\t{texts[number]}\t{texts[number + 1]}" for number in range(0, 38)]
    for name in ("one", "two"):
        (shell.folder / f"{name}.tsv").write_text("score\tsentence1\tsentence2\n" + "\n".join(lines) + "\n")
    command = ("eval", "--task", "sts", "--model", teacher, "--data", "one.tsv", "--data", "two.tsv", "--resamples", 50)
    found = json.loads(shell.must(*command, "--json").out)["sets"]
    assert found["one"] == found["two"]
    assert found["one"]["pairs"] == 38
    assert -1 <= found["one"]["spearman_interval"][0] <= found["one"]["spearman"] <= 1
    shown = shell.must(*command).out
    assert f"{found['one']['spearman']:.4f}" in shown
    assert "average" in shown


def test_sets_of_one_file_name_are_told_apart(shell, teacher, pairs):
    for name in ("one", "two"):
        (shell.folder / name).mkdir()
        shutil.copy(shell.folder / pairs, shell.folder / name / "test.tsv")
    named = [word for path in ("one/test.tsv", "two/test.tsv", pairs) for word in ("--data", path)]
    answer = shell.must("eval", "--task", "sts", "--model", teacher, *named, "--resamples", 10, "--json")
    assert list(json.loads(answer.out)["sets"]) == ["one/test.tsv", "two/test.tsv", "pairs"]


@pytest.fixture
def pairs(shell):
    texts = sentences(40)
    lines = [f"{number % 6}\t{texts[number]}\t{texts[number + 1]}" for number in range(0, 38)]
    (shell.folder / "pairs.tsv").write_text("score\tsentence1\tsentence2\n" + "\n".join(lines) + "\n")
    return "pairs.tsv"


@pytest.mark.parametrize(
    ("form", "mark"),
    [("table", "average"), ("json", '"sets"'), ("csv", ",pairs.tsv (2),38,"), ("latex", r"\bottomrule")],
)
def test_the_result_is_written_in_the_form_and_to_the_file_asked_for(form, mark, shell, teacher, pairs):
    command = ("eval", "--task", "sts", "--model", teacher, "--data", pairs, "--data", pairs, "--resamples", 10)
    shown = shell.must(*command, "--format", form).out
    written = shell.must(*command, "--format", form, "--output", "result")
    assert written.out == ""
    text = (shell.folder / "result").read_text()
    assert mark in text
    assert text.split() == shown.split()


@pytest.mark.parametrize(
    "more",
    [
        ("--run", "foo"),
        ("--index", "nosuch"),
        ("--suite", "bar"),
        ("--metric", "mrr@10"),
        ("--per-query", "pq.tsv"),
        ("--type", "flat"),
        ("--k", 5),
        ("--nprobe", 2),
    ],
)
def test_what_says_nothing_to_similarity_is_refused(more, shell, teacher, pairs):
    answer = shell("eval", "--task", "sts", "--model", teacher, "--data", pairs, *more)
    assert answer.code == 2
    assert f"{more[0]} cannot be used with --task sts" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "sts"), "--data"),
        (("--task", "sts", "--data", "none.tsv"), "there is no file or folder none.tsv"),
        (("--task", "parsing"), "use retrieval or sts"),
        (("--data", "one.tsv"), "--task sts"),
        (("--task", "sts", "--data", "none.tsv", "--resamples", 0), "--resamples must be at least 1, not 0"),
    ],
)
def test_what_does_not_go_together_is_refused(shell, options, said):
    answer = shell("eval", *options)
    assert answer.code == 2
    assert said in answer.err
