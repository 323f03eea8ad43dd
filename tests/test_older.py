"""Folders that an earlier revision wrote are opened, searched, appended to and gone on with, with the same results."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.driving import Shell
from helpers.older_folders import use

OLDER = Path(__file__).parent / "fixtures" / "older"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("older")
    shutil.copytree(OLDER, folder, dirs_exist_ok=True)
    shell = Shell(folder, tmp_path_factory.mktemp("home"))
    return use(folder, lambda *args: shell.must(*args).out)


EXPECTED = json.loads((OLDER / "expected.json").read_text())


@pytest.mark.parametrize("name", ["flat", "ivf-pq", "flat changed", "ivf-pq changed"])
def test_an_older_index_gives_the_results_it_gave(found, name):
    assert found[name].keys() == EXPECTED[name].keys()
    for query, scores in EXPECTED[name].items():
        assert found[name][query] == pytest.approx(scores, abs=2e-4), query


def test_an_older_run_has_the_scores_it_had(found):
    assert found["eval"] == pytest.approx(EXPECTED["eval"])


def test_an_older_cache_holds_every_vector_that_the_same_distillation_asks_for(found):
    assert found["cache is as it was"] is EXPECTED["cache is as it was"] is True


@pytest.mark.parametrize("name", ["again", "unfinished"])
def test_the_same_distillation_from_its_start_or_an_older_checkpoint_gives_the_older_student(found, name):
    assert found[f"{name} is the student"] is EXPECTED[f"{name} is the student"] is True
