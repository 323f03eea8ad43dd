"""What the benchmarks of index structures measure alike: memory by stage, exact neighbours, recall, latency."""

from __future__ import annotations

import re
import resource
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.indexing.faiss_binding import load_faiss

STAGES = {"Encoding": "generate", "Training": "train", "Adding": "add", "Trying": "choose"}


def memory() -> dict[str, int]:
    """Resident bytes of this process: its own, and pages of mapped files, which the system takes back at will."""
    status = Path("/proc/self/status").read_text("ascii", errors="replace")
    sizes = {name: 1024 * int(size) for name, size in re.findall(r"^(Rss\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    return {"own": sizes["RssAnon"] + sizes["RssShmem"], "mapped": sizes["RssFile"]}


class Watch:
    """A `Progress` that keeps how long each stage took and the most memory it had, sampled every 20 ms."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_own: dict[str, int] = {}
        self.peak_resident: dict[str, int] = {}
        self.said: list[str] = []
        self._stage = "rest"
        self._ended = threading.Event()

    @contextmanager
    def task(self, title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Watch]:
        """Time a stage, named by the first word of its title."""
        outer, self._stage = self._stage, STAGES.get(title.split()[0], "rest")
        began = time.perf_counter()
        try:
            yield self
        finally:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0) + time.perf_counter() - began
            self._stage = outer
            print(f"{title}: {time.perf_counter() - began:.1f} s", flush=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Nothing to show."""

    def say(self, message: str) -> None:
        """Keep what the user would be told."""
        self.said.append(message)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample memory beside the work within."""
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        began = time.perf_counter()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            known = sum(seconds for stage, seconds in self.seconds.items() if stage != "rest")
            self.seconds["rest"] = time.perf_counter() - began - known

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            now = memory()
            stage = self._stage
            self.peak_own[stage] = max(self.peak_own.get(stage, 0), now["own"])
            self.peak_resident[stage] = max(self.peak_resident.get(stage, 0), sum(now.values()))


def peak_resident() -> int:
    """Most resident bytes this process ever had, mapped files included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def exact_neighbours(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.float32]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest inner products [q, k] and their rows, best first, block by block, in float32."""
    faiss = load_faiss()
    scores = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    start = 0
    for block in blocks:
        here = faiss.knn(queries, np.ascontiguousarray(block), min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, here[0]], axis=1)
        rows = np.concatenate([rows, here[1] + start], axis=1)
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        start += len(block)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean share of the true rows [q, k] that are among those found [q, any]."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


Key = TypeVar("Key", bound=Hashable)
Rows = NDArray[np.int64]


def ask_in_turn(
    searches: Mapping[Key, Callable[[NDArray[np.float32]], Rows]],
    queries: NDArray[np.float32],
    passes: int,
    untimed: int = 1,
) -> tuple[dict[Key, list[float]], dict[Key, Rows]]:
    """Milliseconds of single queries [q, dim] by each search, and the rows [q, k] that it found.

    Searches take turns within each query, and queries within each pass, in an order drawn anew: what else the machine
    does hits all alike. The first passes are not timed where they read from disk what the others find in memory.
    """
    generator = np.random.default_rng(0)
    keys = list(searches)
    milliseconds: dict[Key, list[float]] = {key: [] for key in keys}
    found: dict[Key, dict[int, Rows]] = {key: {} for key in keys}
    for number in range(untimed + passes):
        for query in generator.permutation(len(queries)).tolist():
            for place in generator.permutation(len(keys)).tolist():
                began = time.perf_counter()
                rows = searches[keys[place]](queries[query : query + 1])
                if number >= untimed:
                    milliseconds[keys[place]].append(1000 * (time.perf_counter() - began))
                found[keys[place]][query] = rows[0]
    return milliseconds, {key: np.stack([rows[query] for query in range(len(queries))]) for key, rows in found.items()}


def quantiles(milliseconds: Any) -> dict[str, float]:
    """Median and 95th percentile."""
    middle, high = np.percentile(milliseconds, [50, 95])
    return {"p50_ms": round(float(middle), 4), "p95_ms": round(float(high), 4)}
