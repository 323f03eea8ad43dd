"""What only a process shows: help, exit codes, closed pipes, interrupts, a terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from helpers.driving import COMMAND, read_until

COMMANDS = (
    *("quickstart", "distill", "index", "search", "eval", "compare", "serve", "bench"),
    *("datasets", "info", "import", "export", "push"),
)


def test_help_names_every_command(shell):
    assert set(re.findall(r"^│ (\w+) ", shell.process("--help").out, re.MULTILINE)) == set(COMMANDS)


def test_help_loads_no_heavy_library(shell):
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'faiss', 'ranx', 'ir_datasets', 'pyarrow', 'numpy'}"
    program = f"import sys\ntry:\n    {COMMAND}\nfinally:\n    print(*({heavy} & set(sys.modules)))"
    for command in COMMANDS:
        assert shell.process(command, "--help", program=program).out.splitlines()[-1] == "", command


@pytest.mark.parametrize("args", [("--no-such-option",), ("no-such-command",), ("compare", "--index", "one")])
def test_wrong_input_ends_a_process_with_2(args, shell):
    answer = shell.process(*args)
    assert answer.code == 2
    assert answer.err
    assert "Traceback" not in answer.err


def test_the_installed_command_is_this_one(shell):
    command = os.path.join(os.path.dirname(sys.executable), "ibkd")
    if not os.path.exists(command):
        pytest.skip("the package is not installed beside this interpreter")
    found = subprocess.run(
        [command, "info", "nowhere"], cwd=shell.folder, env=shell.environment(), capture_output=True, timeout=120
    )
    assert found.returncode == 2
    assert found.stderr.startswith(b"ibkd: ")


def in_shell(shell, words, program=COMMAND):
    """A program of Python's in a shell, for words that only a shell understands."""
    script = f"{sys.executable} -c '{program}' {words}"
    return subprocess.run(
        script, shell=True, cwd=shell.folder, env=shell.environment(), capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("words", ["datasets >&-", "datasets --json >&- 2>&- <&-"])
def test_closed_streams_are_written_to_in_silence(words, shell):
    ended = in_shell(shell, words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_no_file_gets_the_number_of_a_closed_stream(shell):
    opening = (
        'from ibkd_cli import app; app._open_closed_streams(); open("told", "w").write(str(open("f", "w").fileno()))'
    )
    assert in_shell(shell, ">&- 2>&- <&-", opening).returncode == 0
    assert int((shell.folder / "told").read_text()) > 2


def test_a_version_that_finds_no_room_is_a_sentence(shell):
    ended = in_shell(shell, "--version > /dev/full")
    assert (ended.returncode, ended.stderr) == (1, "ibkd: No space left on device.\n")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--json", "--quiet"])
def test_a_reader_that_leaves_early_ends_the_command_in_silence(form, shell, chain):
    process = shell.start("search", "--index", chain.student_index, "-k", "1", form)
    # Far more than a pipe holds, so that the command still writes when nobody reads any more.
    process.stdin.write(b"river bank\n" * 2000)
    process.stdin.close()
    assert read_until(process, process.stdout.fileno(), b"\n")
    process.stdout.close()
    err = read_until(process, process.stderr.fileno()).decode()
    process.stderr.close()
    assert process.wait(180) == 0
    assert "Error" not in err
    assert "Exception" not in err


@pytest.mark.slow
def test_a_reader_that_never_reads_ends_the_command_in_silence(shell, chain):
    # Short output is written when the command ends, and to nobody.
    reading, writing = os.pipe()
    os.close(reading)
    process = shell.start("search", "river", "--index", chain.student_index, "--json", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 0


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on_and_ends_with_130(shell, distilling):
    process = shell.start(*distilling, "--steps", 100_000)
    checkpoints = shell.folder / "models" / "teacher-l2-d8-ibkd" / "checkpoints"
    deadline = time.monotonic() + 180
    while not list(checkpoints.glob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1].startswith("ibkd: Stopped. What is finished is kept")
    assert b"Traceback" not in err
    assert list(checkpoints.glob("step-*"))


@pytest.mark.slow
def test_the_prompt_answers_until_an_empty_line(shell, chain):
    ours, theirs = pty.openpty()
    shown, seen = b"", 0

    def until(mark):
        # From where the last mark ended: one read may bring several.
        nonlocal shown, seen
        deadline = time.monotonic() + 180
        while (place := shown.find(mark, seen)) < 0:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 1)[0]:
                try:
                    shown += os.read(ours, 4096)
                except OSError:  # The other side has left.
                    return
        seen = place + len(mark)

    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = shell.start("search", "--index", chain.student_index, "-k", "2", **streams, start_new_session=True)
    os.close(theirs)
    until(b"search> ")
    assert b"200 documents in " in shown
    os.write(ours, b"river bank\n")
    until(b"2 of 200 documents in ")
    until(b"search> ")
    os.write(ours, b"\n")
    assert process.wait(180) == 0
    until(b"\0")
    os.close(ours)
    text = shown.decode()
    assert text.count("page ") == 2
    assert "Traceback" not in text


@pytest.mark.slow
def test_exit_codes_and_output_are_those_of_the_command_run_in_process(shell, chain):
    args = ("eval", "--index", chain.student_index, "--metric", "mrr@10", "--json")
    assert json.loads(shell.process(*args).out) == json.loads(shell.must(*args).out)
