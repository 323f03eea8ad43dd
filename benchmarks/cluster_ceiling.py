"""What the process that runs `ibkd index` takes for itself, where encoders cost nothing.

usage: python benchmarks/cluster_ceiling.py --before CHECKOUT --corpus CORPUS --work-dir DIR [--count 300000]

The texts are cut at random from those of `--corpus`, 170 words or about 227 tokens each, into a file of JSON lines.
Stub encoders give one constant vector of 384 numbers. `--before` is a checkout of the revision to compare with. Builds
of both are interleaved, each in a process of its own, with its processor time (not that of its encoder processes and
readers), its wall time and its peak memory, until all shards are written and until the index is finished. The files of
all builds must be equal. The peak is that of the process that starts the builds where that is higher (about 115 MB).
Writes benchmarks/results/cluster_ceiling.json.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.workers import EncoderProcesses

DIM, WORDS, TITLE = 384, 170, 9
ENCODERS = {"encoding in the same process": 0, "1 encoder process": 1, "2 encoder processes": 2}


class Stub:
    """An encoder that costs nothing."""

    name, max_length, pooling, dtype, device, dim, weight_hash = "stub", 128, None, "float32", "cpu", DIM, "0a"
    prompts = {"query": "", "document": ""}  # noqa: RUF012

    def encode(self, texts: list[str], kind: str = "document", progress: Any = None) -> np.ndarray:
        """Give the same unit vector for every text."""
        vectors = np.full((len(texts), DIM), DIM**-0.5, np.float32)
        if progress is not None:
            progress.advance(len(texts))
        return vectors


@dataclass(frozen=True)
class LoadStub:
    """Makes the encoder of a process."""

    def __call__(self, number: int, count: int) -> Stub:
        """Make it."""
        return Stub()


def peak_bytes() -> int:
    """Most memory of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Watch:
    """A `Progress` that measures when the documents are encoded."""

    def __init__(self) -> None:
        self.encoded = (0.0, 0.0)
        self.peak = 0

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Watch]:
        """Measure one stage."""
        yield self
        if title == "Encoding documents":
            self.encoded = (time.process_time(), time.perf_counter())
            self.peak = peak_bytes()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Nothing to show."""

    def say(self, message: str) -> None:
        """Nothing to say."""


def build(corpus: str, folder: Path, encoders: int) -> None:
    """Print what one build took."""
    watch = Watch()
    processes = EncoderProcesses(encoders, LoadStub()) if encoders else None
    cpu, wall = time.process_time(), time.perf_counter()
    manifest = build_index(open_corpus(corpus), Stub(), folder, processes=processes, progress=watch)
    now = (time.process_time(), time.perf_counter())
    files = json.dumps({name: record.sha256 for name, record in sorted(manifest.files.items())})
    million = manifest.document_count / 1e6
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        json.dumps(
            {
                "driver_seconds_per_million": {
                    "until_encoded": (watch.encoded[0] - cpu) / million,
                    "until_finished": (now[0] - cpu) / million,
                },
                "other_processes_seconds_per_million": (helpers.ru_utime + helpers.ru_stime) / million,
                "documents_per_second": {
                    "until_encoded": 1e6 * million / (watch.encoded[1] - wall),
                    "until_finished": 1e6 * million / (now[1] - wall),
                },
                "driver_peak_bytes": {"until_encoded": watch.peak, "until_finished": peak_bytes()},
                "digest": hashlib.sha256((files + manifest.corpus.fingerprint).encode()).hexdigest(),
            }
        )
    )


def write_corpus(source: str, path: Path, count: int) -> None:
    """Write documents whose texts are stretches of those of a corpus."""
    words: list[str] = []
    for document in open_corpus(source).documents():
        words += document.text.split()
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            start = draw.randrange(len(words) - WORDS)
            title, text = (" ".join(words[start : start + length]) for length in (TITLE, WORDS))
            file.write(json.dumps({"_id": f"d{number:09d}", "title": title, "text": text, "metadata": {}}) + "\n")


def revision(checkout: Path) -> str:
    """The commit of a checkout."""
    return subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()


def run(checkout: Path, corpus: str, folder: Path, encoders: int) -> dict[str, Any]:
    """One build by the code of a checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()  # What the build before wrote is not this one's to wait for.
    done = subprocess.run(
        [sys.executable, __file__, "--build", str(encoders), "--corpus", corpus, "--work-dir", str(folder)],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(folder)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def median(values: list[Any]) -> Any:
    """The median of numbers, or of those under each key."""
    if isinstance(values[0], dict):
        return {key: median([value[key] for value in values]) for key in values[0] if key != "digest"}
    return round(statistics.median(values), 2)


def main() -> None:
    """Interleave the builds and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build is not None:
        build(given.corpus, given.work_dir, given.build)
        return
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    here = Path(__file__).parents[1]
    checkouts = {"before": given.before.resolve(), "after": here}
    given.work_dir.mkdir(parents=True, exist_ok=True)
    made = given.work_dir / "corpus.jsonl"
    write_corpus(given.corpus, made, given.count)
    cases = {
        **{f"{given.count:,} documents, {name}": (str(made), count) for name, count in ENCODERS.items()},
        f"{Path(given.corpus).name}, encoding in the same process": (given.corpus, 0),
    }
    found: dict[str, dict[str, list[dict[str, Any]]]] = {case: {each: [] for each in checkouts} for case in cases}
    loads = []
    for turn in range(given.rounds):
        for case, (corpus, encoders) in cases.items():
            for each in list(checkouts)[:: 1 if turn % 2 else -1]:
                loads.append(os.getloadavg()[0])
                found[case][each].append(run(checkouts[each], corpus, given.work_dir / "index", encoders))
                print(turn, case, each, json.dumps(found[case][each][-1]), flush=True)
        for case in cases:
            digests = {result["digest"] for results in found[case].values() for result in results}
            assert len(digests) == 1, f"{case}: the files differ"
    made.unlink()
    results = {case: {each: median(values) for each, values in by.items()} for case, by in found.items()}
    for by in results.values():
        before, after = (by[each]["driver_seconds_per_million"] for each in ("before", "after"))
        by["times_less_driver_time"] = {stage: round(before[stage] / after[stage], 2) for stage in before}
    write_json(
        here / "benchmarks" / "results" / "cluster_ceiling.json",
        {
            "date": datetime.date.today().isoformat(),
            "environment": read_environment().to_json(),
            "load_average": round(statistics.median(loads), 1),
            "revisions": {each: revision(path) for each, path in checkouts.items()},
            "bytes_per_document": "170 words of text and 9 of title",
            "rounds": given.rounds,
            "medians": results,
            "files_are_equal": True,
        },
    )


if __name__ == "__main__":
    main()
