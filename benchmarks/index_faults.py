"""One build of a real corpus, killed at random moments and resumed each time, against one that was left alone.

usage: python benchmarks/index_faults.py --corpus CORPUS --model MODEL --work-dir DIR [--kills 20] [--workers 1]

Every kill is a SIGKILL to the whole process group. The build is parted into as many equal stretches as there are kills,
and one falls at a moment drawn within each. Behind the last shard, where the structure is made anew each time, a moment
is a share of the time that takes; should the build end sooner once, the folder is compared, removed and built afresh
until the kill has fallen.
The two folders have to hold the same files with the same bytes; the manifest and the records of shards are compared
without what is a time or a measure of one.
Writes benchmarks/results/index_faults.json.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json

TIMES = ("build", "created", "encode_seconds", "operating_points")
AFTER_SHARDS = 0.25
"""Share of the kills that fall behind the last shard, relative to those before."""
COMMAND = "from ibkd_cli.app import main; main()"


def begin(given: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own."""
    options = ["--corpus", given.corpus, "--model", given.model, "--output", folder, "--shard-size", given.shard_size]
    options += ["--workers", given.workers, "--type", given.type, "--quiet", "--resume"]
    command = [sys.executable, "-c", COMMAND, "index", *map(str, options)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def finished_shards(folder: Path) -> int:
    """Shards that are done."""
    return len(list(folder.glob("shards/*.json")))


def makes_structure(process: subprocess.Popen[bytes]) -> bool:
    """Whether the build has come to its last stage, the only one that maps vectors into memory."""
    try:
        return "/vectors/" in Path(f"/proc/{process.pid}/maps").read_text("utf-8")
    except OSError:
        return False


def wait_for(seconds: float, happened: Callable[[], bool]) -> None:
    """Wait so long, or until something happened."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not happened():
        time.sleep(0.002)


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file; of JSON files without times, and of the plan without what the user typed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            value = {key: part for key, part in json.loads(data).items() if key not in TIMES}
            data = json.dumps(value, sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def main() -> None:
    """Build once, then build under fire, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--type", default="ivf-pq")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # Sums are added in another order by another number of threads, and results are compared to the byte.
    os.environ["OMP_NUM_THREADS"] = "1"
    generator = random.Random(given.seed)
    whole, broken = given.work_dir / "undisturbed", given.work_dir / "killed"
    for folder in (whole, broken):
        shutil.rmtree(folder, ignore_errors=True)

    start = time.monotonic()
    process, seen, structure_begun, ended = begin(given, whole), [start], None, None
    while process.poll() is None:
        if finished_shards(whole) >= len(seen):
            seen.append(time.monotonic())
        if structure_begun is None and makes_structure(process):
            structure_begun = time.monotonic()
        if ended is None and (whole / "index.json").exists():
            ended = time.monotonic()
        time.sleep(0.002)
    if process.returncode != 0 or structure_begun is None or ended is None:
        raise SystemExit("the undisturbed build failed")
    shards, structure_seconds = finished_shards(whole), ended - structure_begun
    shard_seconds = (seen[-1] - seen[1]) / len(seen)
    # A process that goes on imports, loads the model and checks the shards that are there before it works.
    startup_seconds = max(0.0, seen[1] - start - shard_seconds)

    kills: list[dict[str, float | int | str]] = []
    lost, ended_early = [], 0
    while len(kills) < given.kills:
        done = finished_shards(broken)
        moment = (len(kills) + generator.random()) / given.kills * shards * (1 + AFTER_SHARDS)
        process, began = begin(given, broken), time.monotonic()
        beyond = (moment - shards) / (shards * AFTER_SHARDS)
        if beyond > 0:
            while process.poll() is None and not makes_structure(process):
                time.sleep(0.002)
            time.sleep(structure_seconds * beyond)
        else:
            if int(moment) <= done:
                wait_for(startup_seconds, lambda folder=broken, done=done: finished_shards(folder) > done)
            while process.poll() is None and finished_shards(broken) < int(moment):
                time.sleep(0.002)
            time.sleep(shard_seconds * (moment % 1))
        if process.poll() is not None:
            if process.returncode != 0 or contents(broken) != contents(whole):
                raise SystemExit("a build that ended before its kill differs from the undisturbed one")
            shutil.rmtree(broken)
            ended_early += 1
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        half_written = len([path for path in broken.rglob("*") if path.name.endswith(".tmp")])
        kills.append(
            {
                "after_seconds": round(time.monotonic() - began, 2),
                "shards": finished_shards(broken),
                "during": "structure" if beyond > 0 else "shards",
            }
        )
        lost.append(half_written)
    resumed = begin(given, broken).wait()
    ours, theirs = contents(broken), contents(whole)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    result = {
        "what": "one build killed by SIGKILL at random moments and resumed, against an undisturbed one",
        "corpus": Path(given.corpus).name,
        "model": Path(given.model).name,
        "type": given.type,
        "shards": shards,
        "workers": given.workers,
        "seed": given.seed,
        "kills_landed": len(kills),
        "kills_while_the_structure_was_made": sum(kill["during"] == "structure" for kill in kills),
        "builds_that_ended_before_a_kill_and_were_begun_afresh": ended_early,
        "kills": kills,
        "half_written_files_found": sum(lost),
        "last_run_exit_code": resumed,
        "files_compared": len(theirs),
        "files_that_differ": differing,
        "equal": resumed == 0 and not differing,
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
    }
    write_json(Path(__file__).parent / "results" / "index_faults.json", result)
    print(json.dumps({key: result[key] for key in ("shards", "files_compared", "files_that_differ", "equal")}))
    raise SystemExit(0 if result["equal"] else 1)


if __name__ == "__main__":
    main()
