"""`ibkd distill` started by torchrun in two processes."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# The second process is given another teacher, the last argument.
UNLIKE = """
import os, sys
other = sys.argv.pop()
if os.environ["RANK"] == "1":
    sys.argv[sys.argv.index("--teacher") + 1] = other
from ibkd_cli.app import main
main()
"""


def torchrun(shell, *args):
    """Exit code, standard output and standard error."""
    ended = subprocess.run(
        [*LAUNCH, *map(str, args)], cwd=shell.folder, env=shell.environment(), capture_output=True, timeout=300
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_two_processes_make_the_student_of_one_and_speak_once(shell, distilling):
    code, out, err = torchrun(shell, "-m", "ibkd_cli", *distilling, "--steps", 3, "--output", "together")
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == ["together"]
    assert err.count("learning from") == 1
    shell.must(*distilling, "--steps", 3, "--output", "alone")
    together, alone = (json.loads((shell.folder / name / "ibkd.json").read_text()) for name in ("together", "alone"))
    assert together["settings"] == alone["settings"]
    assert together["student"]["dev"] == alone["student"]["dev"]


def test_an_error_of_one_process_ends_both_with_one_sentence(shell, distilling, stranger):
    (shell.folder / "unlike.py").write_text(UNLIKE)
    code, _, err = torchrun(shell, "unlike.py", *distilling, stranger)
    assert code != 0
    (said,) = (line for line in err.splitlines() if line.startswith("ibkd: "))
    assert "see different texts, models or checkpoints" in said
