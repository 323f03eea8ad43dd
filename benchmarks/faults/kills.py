"""Every command that writes, killed at its file operations and run again; and run on a disk that fails.

usage: python benchmarks/faults/kills.py [--work-dir DIR] [--kills 60] [--faults 9] [--only COMMAND] [--every]

A command runs once to count what it changes below its folder: files opened for writing, writes, renames, links,
removals, folders made and removed, syncs, truncations. Then it is killed by SIGKILL before each of these operations or
before an even sample of `--kills` (a write is cut in half first), and run again. Then a call fails: ENOSPC, from
there on for all that need room; EIO, once; EACCES, once, where a name is opened, made, renamed or removed.

After each trial what stood under the command's output is there whole, or what the command makes is. The second run ends
in the files of an undisturbed one, with none beside them. A failed call is one sentence and exit code 1 or 2, or the
result is whole in spite of it. Power cuts are not tried: what the kernel was given counts as written.
Writes benchmarks/results/faults.json, where commands that are not named by `--only` keep their earlier results.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import json
import resource
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from commands import Writing, commands, make_world, state
from trials import COUNT, FAIL, FAIL_ON, KILL, Ended, Warm, contents, fresh

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import write_json

ERRORS = {"ENOSPC": (FAIL_ON, errno.ENOSPC), "EIO": (FAIL, errno.EIO), "EACCES": (FAIL, errno.EACCES)}
RESULT = Path(__file__).parents[1] / "results" / "faults.json"
NAMING = ("open", "mkdir", "rename", "unlink", "link", "rmdir")


class Trials:
    """The trials of one command."""

    def __init__(self, warm: Warm, command: Writing) -> None:
        self.warm, self.command = warm, command
        self.template = warm.work / "template"
        shutil.rmtree(self.template, ignore_errors=True)
        (self.template / "home").mkdir(parents=True)
        command.prepare(self.template)
        self.before = self.state(self.template)
        fresh(warm.root, self.template)
        warm.learn_modules(command.words)
        fresh(warm.root, self.template)
        ended = warm.run(command.words, COUNT)
        if ended.code:
            raise SystemExit(f"{command.name}: {ended.err}")
        self.operations = warm.operations()
        self.due, self.files = self.state(warm.root), contents(warm.root, command.ignored)
        self.wrong: list[dict[str, object]] = []

    def state(self, folder: Path) -> str | None:
        """What is found under the target."""
        return state(folder / self.command.target, self.command.ignored)

    def disturb(self, what: str, how: int, moment: int, error: int = 0) -> None:
        """Run the command disturbed, look at what it left, and run it again."""
        fresh(self.warm.root, self.template)
        ended = self.warm.run(self.command.words, how, moment, error)
        faults = self.left(ended)
        if how != KILL:
            faults += self.said(ended)
        elif ended.code not in (-9, 0):
            faults.append(f"exit code {ended.code}: {ended.sentence}")
        done = self.done()
        second = self.warm.run((*self.command.words, *self.command.again))
        # What was whole before the end came is not done twice: an id is deleted once, a finished folder is kept.
        if second.code and not (done and second.code == 2 and not second.traceback and not self.differing()):
            faults.append(f"the second run ends with {second.code}: {second.sentence}")
        elif differing := self.differing():
            faults.append(f"after the second run these differ: {', '.join(differing[:6])}")
        if faults:
            operation = self.operations[moment - 1].replace(str(self.warm.root), "")
            found = {"trial": what, "moment": moment, "operation": operation, "faults": faults}
            self.wrong.append(found)
            print(f"{self.command.name}: {found}", flush=True)

    def done(self) -> bool:
        """Whether what the command makes is there."""
        try:
            return self.state(self.warm.root) == self.due
        except (UserError, OSError, ValueError):
            return False

    def left(self, ended: Ended) -> list[str]:
        """What is wrong with what a disturbed run left."""
        try:
            found = self.state(self.warm.root)
        except (UserError, OSError, ValueError) as fault:
            return [f"damaged: {fault}"]
        if found in (self.before, self.due):
            return []
        return [f"{self.command.target} is {'gone' if found is None else 'neither the old nor the new one'}"]

    def said(self, ended: Ended) -> list[str]:
        """What is wrong with how a failed call was answered."""
        if ended.traceback:
            return ["traceback: " + ended.sentence]
        if ended.code in (1, 2):
            lines = [line for line in ended.err.splitlines() if line.startswith("ibkd: ")]
            return [] if len(lines) == 1 else [f"{len(lines)} sentences: {ended.sentence}"]
        if ended.code == 0:
            # What could not be removed stays under a hidden name, for the next run to remove.
            differing = [name for name in self.differing() if not name.startswith(".")]
            return [f"done, and these differ: {', '.join(differing[:6])}"] if differing else []
        return [f"exit code {ended.code}: {ended.sentence}"]

    def differing(self) -> list[str]:
        """Names of files that are not those of an undisturbed run."""
        found = contents(self.warm.root, self.command.ignored)
        return sorted(name for name in found.keys() | self.files.keys() if found.get(name) != self.files.get(name))


def sample(count: int, most: int) -> list[int]:
    """Up to `most` moments of `count`, evenly, the first and the last among them."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(place * (count - 1) / (most - 1)) for place in range(most)})


def try_command(warm: Warm, command: Writing, kills: int, faults: int) -> dict[str, Any]:
    """All trials of a command."""
    trials = Trials(warm, command)
    count = len(trials.operations)
    killed = sample(count, kills)
    for moment in killed:
        trials.disturb("SIGKILL", KILL, moment)
    failed: Counter[str] = Counter()
    for name, (how, number) in ERRORS.items():
        places = range(1, count + 1)
        if name == "EACCES":
            places = [at for at in places if trials.operations[at - 1].split()[0] in NAMING]
        for place in sample(len(places), faults):
            trials.disturb(name, how, places[place - 1], number)
            failed[name] += 1
    kinds = Counter(operation.split()[0] for operation in trials.operations)
    return {
        "command": command.name,
        "operations": count,
        "kinds": dict(kinds.most_common()),
        "kills": len(killed),
        "faults": dict(failed),
        "wrong": trials.wrong,
    }


def main() -> None:
    """Try every command, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()) / "ibkd-faults")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--faults", type=int, default=9)
    parser.add_argument("--only", action="append", help="a command of the table; repeat for several")
    parser.add_argument("--every", action="store_true", help="kill at every operation, whatever --kills says")
    given = parser.parse_args()
    warm = Warm(given.work_dir.resolve())
    world = make_world(warm)
    known = json.loads(RESULT.read_bytes())["commands"] if RESULT.exists() else []
    results = {each["command"]: each for each in known}
    for command in commands(world):
        if given.only and command.name not in given.only:
            continue
        begun = _processor_seconds()
        result = try_command(warm, command, 10**9 if given.every else given.kills, given.faults)
        results[command.name] = result | {"cpu_seconds": round(_processor_seconds() - begun, 1)}
        print(json.dumps({k: len(v) if k == "wrong" else v for k, v in result.items() if k != "kinds"}), flush=True)
        _write([results[each.name] for each in commands(world) if each.name in results])
    raise SystemExit(1 if any(each["wrong"] for each in results.values()) else 0)


def _processor_seconds() -> float:
    used = [resource.getrusage(each) for each in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _write(results: list[dict[str, Any]]) -> None:
    summary = {
        "kills": sum(each["kills"] for each in results),
        "faults": sum(sum(each["faults"].values()) for each in results),
        "wrong": sum(len(each["wrong"]) for each in results),
    }
    what = "every command that writes, killed at its file operations or with one of them failing, and run again"
    when = {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
    write_json(RESULT, {"what": what, **summary, "commands": results, **when})


if __name__ == "__main__":
    main()
