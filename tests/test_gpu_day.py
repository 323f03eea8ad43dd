"""The script for a GPU runs each of its steps with options that the step's own script has."""

import subprocess
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RECORDING = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/called"\nexit $(cat "$(dirname "$0")/code")\n'


def run(folder, *arguments, code=0):
    python = folder / "python"
    python.write_text(RECORDING)
    python.chmod(0o755)
    (folder / "code").write_text(str(code))
    command = ["bash", str(BENCHMARKS / "gpu_day.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"})
    called = folder / "called"
    return done, [line.split() for line in called.read_text().splitlines()] if called.exists() else []


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_each_step_is_called_with_options_that_it_has(tmp_path, device):
    done, called = run(tmp_path, "data", "models", str(tmp_path / "out"), device)
    assert done.returncode == 0, done.stderr
    assert [Path(script).name for script, *_ in called] == ["encode_gpu.py", "step_time.py", "index_gpu.py"]
    for script, *words in called:
        read = Path(script).read_text("utf-8")
        for option in (word for word in words if word.startswith("--") and word != "--help"):
            assert option in read or f"    {option[2:]}: Annotated" in read, (script, option)


def test_a_step_that_fails_does_not_stop_the_others_and_is_told(tmp_path):
    done, called = run(tmp_path, "data", "models", str(tmp_path / "out"), "cpu", code=3)
    assert done.returncode == 1
    assert len(called) == 3
    assert done.stdout.count("failed with code 3") == 3


def test_without_folders_it_says_what_it_needs(tmp_path):
    done, called = run(tmp_path, "data")
    assert (done.returncode, called) == (2, [])
    assert "DATA MODELS OUT" in done.stdout
