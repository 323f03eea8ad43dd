"""`ibkd bench encode`: a table for a person, an object for a program, and a choice for the next command."""

import json

import pytest

from helpers.driving import Shell
from ibkd_retrieval.encoders.autotune import choice


@pytest.mark.slow
def test_bench_encode_shows_every_configuration_and_what_to_choose(tmp_path_factory, teacher, beir):
    # In a home of its own: what it chooses is taken by every later command of the same home.
    shell = Shell(tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("home"))
    command = ("bench", "encode", "--model", teacher, "--corpus", beir, "--documents", 4, "--rounds", 1)
    shown = json.loads(shell.must(*command, "--json", "--quiet").out)
    assert shown["ways"][0]["way"] == {"backend": "torch", "dtype": "float32"}
    assert len(shown["ways"]) == len(choice.candidates("cpu"))
    for each in shown["ways"]:
        assert each["long_per_second"] > 0
        assert set(each["queries"]) == {"8", "32"}
    assert shown["ways"][0]["mean_cosine"] == pytest.approx(1.0)
    assert set(shown["choices"]) == {"documents", "queries"}
    table = shell.must(*command, "--quiet").out
    assert "torch float32" in table
    assert "for documents:" in table
    assert "for queries:" in table


@pytest.mark.parametrize("options", [("--documents", 0), ("--rounds", 0), ("--corpus", "nowhere.jsonl")])
def test_bench_encode_refuses_what_cannot_be_measured(shell, teacher, beir, options):
    answer = shell("bench", "encode", "--model", teacher, "--corpus", beir, *options)
    assert answer.code == 2
    assert "Traceback" not in answer.err
