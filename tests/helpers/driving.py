"""The command, driven as a user does: in this process where only its answer counts, in one of its own elsewhere."""

import contextlib
import io
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

COMMAND = "from ibkd_cli.app import main; main()"
INHERITED = ("HF_HOME", "HF_HUB_CACHE", "SENTENCE_TRANSFORMERS_HOME", "IR_DATASETS_HOME", "COLUMNS", "FORCE_COLOR")


@dataclass(frozen=True)
class Answer:
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """A folder to work in and a home that holds nothing."""

    folder: Path
    home: Path

    def __call__(self, *args: object, stdin: str = "") -> Answer:
        """Run a command in this process: importing torch anew for each takes five seconds."""
        from ibkd_cli.app import main

        out, err, code = io.StringIO(), io.StringIO(), 0
        piped = io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape")), "utf-8")
        with (
            mock.patch.dict(os.environ, self.environment(), clear=True),
            mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True),
            mock.patch.object(sys, "argv", ["ibkd", *map(str, args)]),
            mock.patch.object(sys, "stdin", piped),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as leaving:
                code = int(leaving.code or 0)
        return Answer(code, out.getvalue(), err.getvalue())

    def must(self, *args: object, stdin: str = "") -> Answer:
        """Run a command in this process that has to work."""
        answer = self(*args, stdin=stdin)
        assert answer.code == 0, answer.err
        return answer

    def start(self, *args: object, program: str = COMMAND, **options) -> "subprocess.Popen[bytes]":
        """Begin a command in a process of its own."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, args)],
            cwd=self.folder,
            env=self.environment(),
            **(pipes | options),
        )

    def process(self, *args: object, program: str = COMMAND, stdin: str = "") -> Answer:
        """Run a command in a process of its own, to its end."""
        process = self.start(*args, program=program)
        out, err = process.communicate(stdin.encode(), timeout=120)
        return Answer(process.returncode, out.decode(), err.decode())

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in INHERITED}
        return kept | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "HF_HUB_OFFLINE": "1",
            # Sums are added in another order by several threads, and results are compared to the byte.
            "OMP_NUM_THREADS": "1",
        }


def read_until(process: "subprocess.Popen[bytes]", source: int, mark: bytes | None = None, seconds: int = 120) -> bytes:
    """What a process writes to a pipe or terminal, until `mark` is in it or the other end is closed.

    A process that takes longer is killed, and the test fails: nothing waits for ever.
    """
    said, deadline = b"", time.monotonic() + seconds
    while mark is None or mark not in said:
        if not select.select([source], [], [], max(0, deadline - time.monotonic()))[0]:
            process.kill()
            raise AssertionError(f"nothing more within {seconds} seconds after {said!r}")
        try:
            part = os.read(source, 1 << 16)
        except OSError:  # How a terminal says that its other end is closed.
            break
        if not part:
            break
        said += part
    return said


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
