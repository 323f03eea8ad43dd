"""Commands run in children forked off a warm process, disturbed at one of their file operations."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests"))
COUNT, KILL, FAIL, FAIL_ON = 1, 2, 3, 4
"""What happens at an operation: it is counted, ends the process, fails, or fails with all that need room after it."""

CHANGING_KEYS = frozenset(
    {"created", "build", "encode_seconds", "seconds", "operating_points", "texts_per_second", "train_seconds"}
    | {"student_share"}
)
"""Keys of JSON files that hold times, or measures of time."""


def load_shim(work: Path) -> ctypes.CDLL:
    """Compile the shim and begin this program again with it in front of libc, unless that was done."""
    shim = work / "shim.so"
    if os.environ.get("LD_PRELOAD") != str(shim):
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-o", shim, HERE / "shim.c", "-ldl"], check=True
        )
        # Sums are added in another order by several threads, and results are compared to the byte; and a process with
        # threads cannot be forked safely.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        more = {"LD_PRELOAD": str(shim), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **one}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | more)
    library = ctypes.CDLL(str(shim))
    library.fault_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    return library


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (below zero: the signal), and what it wrote to the two streams."""

    code: int
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        """Whether it ended in an error that nobody had foreseen."""
        return "Traceback (most recent call last)" in self.err

    @property
    def sentence(self) -> str:
        """The last line that was said, which is the error's."""
        return " ".join(self.err.split())[-500:]


class Warm:
    """This process, with all loaded that the commands need; `run` forks it."""

    def __init__(self, work: Path) -> None:
        self.shim = load_shim(work)
        self.work = work
        self.root = work / "run"
        self.said = work / "said"
        self.said.mkdir(exist_ok=True)
        import torch

        torch.set_num_threads(1)

    def run(
        self, words: tuple[str, ...], how: int = 0, at: int = 0, error: int = 0, folder: Path | None = None
    ) -> Ended:
        """Run `ibkd` with these words in the trial's folder, and disturb it."""
        return self.call(lambda: command(words), how, at, error, folder)

    def call(self, action: Any, how: int = 0, at: int = 0, error: int = 0, folder: Path | None = None) -> Ended:
        """Run a function in a child, in the trial's folder, and disturb it."""
        # A child that collects garbage would copy the memory of all that is loaded.
        gc.collect()
        gc.freeze()
        child = os.fork()
        if child == 0:
            self._in_child(action, how, at, error)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ended(code, *((self.said / name).read_text("utf-8", "replace") for name in ("out", "err")))

    def _in_child(self, action: Callable[[], int | None], how: int, at: int, error: int) -> None:
        code: int | None = 70
        try:
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(self.said / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(file, number)
            log = os.open(self.said / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.chdir(self.root)
            os.environ["HOME"] = str(self.root / "home")
            os.environ["XDG_CACHE_HOME"] = str(self.root / "home" / ".cache")
            if how:
                self.shim.fault_arm(how, at, error, os.fsencode(self.root), log)
            code = action()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 70
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)

    def operations(self) -> list[str]:
        """What the last run that counted did, a line for each operation."""
        return (self.said / "log").read_text("utf-8").splitlines()

    def learn_modules(self, words: tuple[str, ...]) -> None:
        """Load here what a command loads, which is found out by running it in a child."""
        listed = self.work / "modules"

        def action() -> int:
            try:
                return command(words)
            except SystemExit as leaving:
                return int(leaving.code or 0)
            finally:
                listed.write_text("\n".join(sys.modules))

        ended = self.call(action)
        if ended.code:
            raise SystemExit(f"{' '.join(words)}: {ended.err}")
        for name in listed.read_text().split("\n"):
            if name not in sys.modules and not name.startswith("__"):
                try:
                    importlib.import_module(name)
                except Exception:
                    continue


def command(words: tuple[str, ...]) -> int:
    """Run `ibkd` with these words in this process."""
    from ibkd_cli.app import main

    sys.argv = ["ibkd", *words]
    main()
    return 0


def fresh(folder: Path, template: Path) -> None:
    """Make `folder` what `template` is."""
    for _ in range(20):
        try:
            shutil.rmtree(folder, ignore_errors=False)
        except FileNotFoundError:
            break
        except OSError:
            time.sleep(0.05)
    shutil.copytree(template, folder, symlinks=True)


def contents(folder: Path, ignored: tuple[str, ...] = ()) -> dict[str, str]:
    """A digest of every file by its name, without what is a time; a folder has an empty one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            found[name] = ""
        elif any(path.match(each) for each in ignored):
            found[name] = "(present)"
        else:
            found[name] = digest(path)
    return found


def digest(path: Path) -> str:
    """Of the bytes; of JSON without times."""
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        elif path.suffix == ".jsonl" and path.name.endswith("-log.jsonl"):
            data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()], sort_keys=True).encode()
    except ValueError:
        data = b"damaged " + data
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CHANGING_KEYS and not k.startswith("ms_")}
    return [_timeless(each) for each in value] if isinstance(value, list) else value
