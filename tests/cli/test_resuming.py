"""Killed in the middle, a long command goes on with --resume and ends where it would have ended."""

import signal

import pytest

from helpers.driving import COMMAND, files_of

pytestmark = pytest.mark.slow

# Killed from within, at once and without clean-up: a kill from outside would come at a random time.
KILLED_BUILD = f"""
import os, signal
from ibkd_retrieval.indexing.building import stage as shard_stage
write = shard_stage.write_shard
def fatal(folder, number, *rest, **options):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(folder, number, *rest, **options)
shard_stage.write_shard = fatal
{COMMAND}
"""
KILLED_TRAINING = f"""
import os, signal, torch
torch.set_num_threads(1)
from ibkd_retrieval.distill.training import stage1 as train
step = train.TrainingRun.step
def fatal(self, number, *, detailed):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number, detailed=detailed)
train.TrainingRun.step = fatal
{COMMAND}
"""


def contents(index):
    return {name: data for name, data in files_of(index).items() if name.startswith(("vectors/", "docids", "index.fa"))}


def test_a_killed_index_is_resumed_to_the_same_bytes(shell, chain, beir):
    index = ("index", "--corpus", beir, "--model", chain.student, "--shard-size", 64)
    command = (*index, "--output", "here", "--dtype", "float32")
    assert shell.process(*command, program=KILLED_BUILD).code == -signal.SIGKILL
    folder = shell.folder / "here"
    assert len(list((folder / "vectors").iterdir())) == 2
    assert not (folder / "index.json").exists()

    assert shell("search", "river", "--index", "here").code == 2
    refused = shell(*command)
    assert refused.code == 2
    assert "continue with --resume" in refused.err
    begun = {path.name: path.stat().st_mtime_ns for path in (folder / "vectors").iterdir()}

    shell.must(*command, "--resume")
    assert begun.items() <= {path.name: path.stat().st_mtime_ns for path in (folder / "vectors").iterdir()}.items()
    assert contents(folder) == contents(chain.student_index)
    assert len(contents(folder)) >= 6
    shell.must("info", "here", "--verify")


def test_a_killed_distillation_is_resumed_to_the_same_weights(shell, chain, distilling):
    killed = shell.process(*distilling, program=KILLED_TRAINING)
    assert killed.code == -signal.SIGKILL, killed.err
    student = shell.folder / "models" / chain.student.name
    assert (student / "checkpoints" / "step-0000004").is_dir()
    assert not (student / "ibkd.json").exists()

    # What is unfinished is taken for a student by no command.
    assert "No finished student" in shell("index", "--corpus", "pydocs").err
    refused = shell(*distilling)
    assert refused.code == 2
    assert "give --resume" in refused.err

    assert "resuming after step 4 of 8" in shell.must(*distilling, "--resume").err
    whole, resumed = files_of(chain.student), files_of(student)
    weights = [name for name in whole if name.endswith(".safetensors")]
    assert len(weights) >= 2
    assert {name: resumed[name] for name in weights} == {name: whole[name] for name in weights}
    assert whole.keys() == resumed.keys()


@pytest.mark.parametrize("command", ["index", "distill"])
def test_resuming_before_anything_began_is_starting(command, shell, chain, beir, distilling):
    if command == "index":
        shell.must("index", "--corpus", beir, "--model", chain.student, "--output", "new", "--resume")
        assert (shell.folder / "new" / "index.json").is_file()
    else:
        shell.must(*distilling, "--output", "new", "--resume")
        assert (shell.folder / "new" / "ibkd.json").is_file()
