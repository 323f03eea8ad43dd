"""Faults in random order over one build on a cluster: its files are those of one machine, byte for byte.

    python benchmarks/cluster_soak.py --data-dir DIR --models-dir DIR [--faults 20]

The cluster is a head and two nodes of one CPU on this machine, one of them behind a network link of its own. Faults are
spread over the shards of the build: a node is killed and another joins, an encoder process is killed, the command
itself is killed and resumed, and the link is cut until the node counts as dead. Network namespaces need the rights of
root. Without them, nodes are killed instead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.ray_nodes import IMPATIENT, Link, add_node, behind, namespace, started

# On a busy machine, a node that is only slow does not count as dead at once.
PATIENT = {**IMPATIENT, "health_check_failure_threshold": "6"}
KINDS = ("node", "encoder", "command", "partition")


class Build:
    """The command that builds, which is started again whenever it ends early."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder = command, folder
        self.starts = 0
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, or go on with it."""
        resume = ["--resume"] if self.starts else []
        self.starts += 1
        self.process = subprocess.Popen([*self.command, *resume], stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """Kill it, and go on with another."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.start()

    def is_finished(self) -> bool:
        """Whether it has finished. If it gave up, another goes on."""
        if self.process.poll() is None:
            return False
        said = self.process.communicate()[1]
        if self.process.returncode == 0:
            return True
        self.said.append(said.strip().splitlines()[-1])
        if len(self.said) > 10:
            raise SystemExit("\n".join(self.said))
        self.start()
        return False

    def shards(self) -> int:
        """The number of recorded shards."""
        return sum(1 for _ in self.folder.glob("shards/*.json"))


class Nodes:
    """The two nodes, and what can happen to them."""

    def __init__(self, cluster: Any, link: Link | None) -> None:
        self.cluster, self.link = cluster, link
        self.replaced = 0
        self.near = add_node(cluster)
        self.far: AbstractContextManager[None] | None = None
        self._join()

    def _join(self) -> None:
        if self.link is None:
            add_node(self.cluster)
            return
        before = self._living()
        self.far = behind(self.link, self.cluster.address)
        self.far.__enter__()
        self._wait(lambda: self._living() > before)

    def _wait(self, found: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not found() and time.monotonic() < end:
            time.sleep(0.2)

    def replace_dead(self) -> None:
        """Have others join for nodes that died without a fault of this test."""
        if self._living() == 3:
            return
        self.replaced += 1
        if not self._lives(self.near.node_id):
            self.cluster.remove_node(self.near, allow_graceful=False)
            self.near = add_node(self.cluster)
        elif self.link is not None:
            self.end()
            self._join()

    def _lives(self, node: str) -> bool:
        return any(each["NodeID"] == node and each["Alive"] for each in self.cluster.global_state.node_table())

    def kill_node(self) -> None:
        """Kill the near node. Another joins."""
        before = self._living()
        self.cluster.remove_node(self.near, allow_graceful=False)
        self._wait(lambda: self._living() < before)
        self.near = add_node(self.cluster)

    def kill_encoder(self) -> None:
        """Kill a process that encodes, or one that waits."""
        found = sorted(encoders(self.cluster.head_node.get_session_dir_path()))
        if found:
            os.kill(found[-1][1], signal.SIGKILL)

    def cut_off(self) -> None:
        """Cut the far node off until it counts as dead, and a little longer. Another joins in its place."""
        assert self.link is not None
        self.link.set("down")
        before = self._living()
        self._wait(lambda: self._living() < before)
        time.sleep(2)
        self.link.set("up")
        time.sleep(2)  # What is late comes now.
        self.end()
        self._join()

    def _living(self) -> int:
        return sum(node["Alive"] for node in self.cluster.global_state.node_table())

    def end(self) -> None:
        """End the far node."""
        if self.far is not None:
            self.far.__exit__(None, None, None)


def encoders(session: str) -> list[tuple[bool, int]]:
    """The processes of the nodes of a session: whether it works, and its number."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes().decode(errors="replace")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if title.startswith(("ray::_call", "ray::IDLE")) and session in Path(f"/proc/{parent}/cmdline").read_text():
                found.append((title.startswith("ray::_call"), int(path.name)))
        except OSError:  # It has ended.
            continue
    return found


def soak(build: Build, nodes: Nodes, faults: list[str], shards: int) -> list[dict[str, Any]]:
    """Cause the faults while the build runs, and wait for its end."""
    act: dict[str, Callable[[], None]] = {
        "node": nodes.kill_node,
        "encoder": nodes.kill_encoder,
        "command": build.kill,
        "partition": nodes.cut_off,
    }
    began = looked = time.monotonic()
    caused: list[dict[str, Any]] = []
    while not build.is_finished():
        due = len(caused) < len(faults) and build.shards() >= (len(caused) + 1) * shards / (len(faults) + 1)
        if due:
            kind = faults[len(caused)]
            caused.append({"kind": kind, "second": round(time.monotonic() - began, 1), "shards": build.shards()})
            print(caused[-1], flush=True)
            act[kind]()
        elif time.monotonic() - looked > 5:
            looked = time.monotonic()
            nodes.replace_dead()
        time.sleep(0.05)
    return caused


def counted(folder: Path) -> dict[str, Any]:
    """What an index holds: its checksums read from the disk, and its documents counted by their ids."""
    from ibkd_retrieval.files import sha256_file
    from ibkd_retrieval.indexing.format.manifest import read_manifest

    manifest = read_manifest(folder)
    ids = Counter(
        json.loads(line)["id"]
        for path in sorted(folder.glob("documents/*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    )
    return {
        "sums": {name: sha256_file(folder / name) for name in sorted(manifest.files)},
        "documents": sum(ids.values()),
        "double": sum(count - 1 for count in ids.values()),
        "ids": sorted(ids),
    }


def main() -> None:
    """Build once alone and once through the faults, compare, and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True, help="with the BEIR folder scifact")
    options.add_argument("--models-dir", type=Path, required=True)
    options.add_argument("--work-dir", type=Path, required=True, help="a new folder for both indexes")
    options.add_argument("--model", default="paraphrase-MiniLM-L3-v2")
    options.add_argument("--faults", type=int, default=20)
    options.add_argument("--shard-size", type=int, default=32)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cluster_soak.json")
    given = options.parse_args()
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    # The bits of a vector depend on the number of threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    here, there = given.work_dir / "alone", given.work_dir / "cluster"
    command = [str(Path(sys.executable).with_name("ibkd")), "index", "--corpus", str(given.data_dir / "scifact")]
    command += ["--model", str(given.models_dir / given.model), "--shard-size", str(given.shard_size)]
    command += ["--dtype", "float32", "--backend", "torch", "--output"]
    resume = ["--resume"] if here.exists() else []
    subprocess.run([*command, str(here), "--quiet", *resume], check=True)
    alone = counted(here)
    shards = sum(1 for _ in here.glob("shards/*.json"))
    rights = os.geteuid() == 0 and shutil.which("ip") is not None
    kinds = [KINDS[number % len(KINDS)] for number in range(given.faults)]
    random.Random(given.seed).shuffle(kinds)
    kinds = [kind if rights or kind != "partition" else "node" for kind in kinds]
    with ExitStack() as stack:
        link = stack.enter_context(namespace()) if rights else None
        cluster = stack.enter_context(started((), None if link is None else link.here, **PATIENT))
        nodes = Nodes(cluster, link)
        stack.callback(nodes.end)
        began = time.monotonic()
        build = Build([*command, str(there), "--cluster", cluster.address], there)
        caused = soak(build, nodes, kinds, shards)
        seconds = time.monotonic() - began
    found = counted(there)
    result = {
        "what": __doc__.strip().splitlines()[0] if __doc__ else "",
        "model": given.model,
        "seed": given.seed,
        "shards": shards,
        "faults": caused,
        "faults_by_kind": dict(Counter(each["kind"] for each in caused)),
        "commands_started": build.starts,
        "gave_up_with": build.said,
        "documents": found["documents"],
        "lost": len(set(alone["ids"]) - set(found["ids"])),
        "double": found["double"],
        "files": len(found["sums"]),
        "files_equal_by_sha256": sum(alone["sums"].get(name) == sum_ for name, sum_ in found["sums"].items()),
        "same_files": alone["sums"] == found["sums"],
        "staging_left": (there / "staging").exists(),
        "seconds": round(seconds, 1),
        "nodes_that_died_of_themselves": nodes.replaced,
        "environment": read_environment().to_json(),
    }
    write_json(given.output, result)
    print(json.dumps({name: value for name, value in result.items() if name != "environment"}, indent=1))
    if not result["same_files"] or result["lost"] or result["double"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
