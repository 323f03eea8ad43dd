"""What `ibkd serve` adds to a query, what micro-batching gains under load, and what hostile requests do to it.

usage: python benchmarks/serve_load.py --data-dir DIR --models-dir DIR --work-dir DIR

Data: DIR/cranfield (BEIR folder). Indexes are kept in the work folder. The server is the command, in a process of its
own, on a loopback port. Writes benchmarks/results/serve_load.json, or --output.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hostile_requests import bombard
from http_load import load
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.tokens import DEFAULT_BATCH_TOKENS
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.format.layout import MANIFEST
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.searcher import Searcher
from ibkd_retrieval.serving.answering import suit_to_queries

COMMAND = "from ibkd_cli.app import main; main()"
K = 10
CLIENTS = 16
WEB = ("fastapi", "starlette", "uvicorn", "h11", "pydantic", "prometheus-client")


@contextlib.contextmanager
def server(*folders: Path) -> Iterator[tuple[int, int]]:
    """Serve indexes; gives the port and the process id, and holds that the server ends well."""
    indexes = [word for folder in folders for word in ("--index", str(folder))]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", *indexes, "--port", "0", "--remember", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline().split("/")[2].rpartition(":")[2]), process.pid
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit(f"the server ended with {process.returncode}")
    finally:
        process.kill()


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, text: str) -> bytes:
        """Send a query and read its answer."""
        body = json.dumps({"query": text, "k": K})
        self._connection.request("POST", "/search", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {answer[:200]!r}")
        return answer


def metrics(port: int) -> dict[str, float]:
    """The counters of a server."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def timed(work: Any, *given: Any) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    work(*given)
    return 1000 * (time.perf_counter() - began)


def added(client: Client, searcher: Searcher, texts: Sequence[str], pairs: int) -> dict[str, Any]:
    """One query at a time, by HTTP with its answer parsed and by a call of the library, in turn."""
    for text in texts[:20]:
        client.ask(text)
        searcher.search(text, K)
    ways = [lambda text: json.loads(client.ask(text)), lambda text: searcher.search(text, K)]
    order = np.random.default_rng(0)
    took = np.empty((pairs, 2))
    for row in range(pairs):
        text = texts[row % len(texts)]
        for way in order.permutation(2):
            took[row, way] = timed(ways[way], text)
    http, direct = took.T
    quartiles = np.percentile(http - direct, [25, 75])
    return {
        "pairs": pairs,
        "http_ms": summary(http),
        "direct_ms": summary(direct),
        "p50_added_ms": round(float(np.median(http) - np.median(direct)), 3),
        "median_of_differences_ms": round(float(np.median(http - direct)), 3),
        "quartiles_of_differences_ms": [round(float(each), 3) for each in quartiles],
    }


def summary(milliseconds: Any) -> dict[str, float]:
    """Median and high percentiles."""
    return {f"p{q}": round(float(np.percentile(milliseconds, q)), 3) for q in (50, 95, 99)}


def per_second(work: Any, texts: Sequence[str], at_once: int) -> float:
    """Texts a second in calls of so many."""
    parts = [texts[start : start + at_once] for start in range(0, len(texts), at_once)]
    return 1000 * len(texts) / sum(timed(work, part) for part in parts)


def processor_seconds(process: int) -> float:
    """What a process has taken of the processors so far."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def throughput(
    port: int, process: int, searcher: Searcher, texts: Sequence[str], rounds: int, seconds: float
) -> dict[str, Any]:
    """One client against sixteen, and what encoder and library alone gain from batches of sixteen.

    All are measured once in each round, in random order, after one untimed call of each.
    """

    def encode(texts: Sequence[str]) -> Any:
        return searcher.encoder.encode(texts, "query")

    def encode_undivided(texts: Sequence[str]) -> Any:
        parts, searcher.encoder.batch_tokens = searcher.encoder.batch_tokens, DEFAULT_BATCH_TOKENS
        try:
            return encode(texts)
        finally:
            searcher.encoder.batch_tokens = parts

    def search(texts: Sequence[str]) -> Any:
        return searcher.hits_of_each(encode(texts), K)

    waits: list[float] = []
    batches: list[float] = []
    processor: list[float] = []

    def crowd() -> float:
        before, taken = metrics(port), processor_seconds(process)
        many = load(port, texts, K, CLIENTS, seconds)
        after, taken = metrics(port), processor_seconds(process) - taken
        processor.append(1000 * taken / len(many.milliseconds))
        counted = [
            after[f"ibkd_batch_queries_{what}"] - before[f"ibkd_batch_queries_{what}"] for what in ("sum", "count")
        ]
        batches.append(counted[0] / counted[1])
        waits.extend(many.milliseconds)
        return many.per_second

    order = np.random.default_rng(1)

    def one_round(sixteen: Sequence[str]) -> list[float]:
        ways: list[Callable[[], float]] = [lambda: load(port, texts, K, 1, seconds).per_second, crowd]
        for work in (encode, encode_undivided, search):
            ways += [partial(per_second, work, sixteen, 1), partial(per_second, work, sixteen, len(sixteen))]
        took = {place: ways[place]() for place in order.permutation(len(ways)).tolist()}
        return [took[place] for place in range(len(ways))]

    load(port, texts, K, CLIENTS, 1.0)
    for work in (encode, encode_undivided, search):
        work(texts[:CLIENTS])
    rows = [
        one_round([texts[(CLIENTS * number + place) % len(texts)] for place in range(CLIENTS)])
        for number in range(rounds)
    ]
    one, many, encode_one, encode_many, undivided_one, undivided_many, search_one, search_many = np.array(rows).T
    return {
        "rounds": rounds,
        "seconds_each": seconds,
        "one_client_queries_per_second": spread(one),
        "sixteen_clients_queries_per_second": spread(many),
        "gain": spread(many / one),
        "gain_of_bare_encoder_in_batches_of_16": spread(encode_many / encode_one),
        "gain_of_bare_encoder_undivided": spread(undivided_many / undivided_one),
        "gain_of_library_in_batches_of_16": spread(search_many / search_one),
        "queries_in_a_batch": spread(batches),
        "sixteen_clients_ms": summary(waits),
        "sixteen_clients_processor_ms_a_query": spread(processor),
    }


def spread(values: Any) -> dict[str, float]:
    """Median and range over rounds."""
    return {name: round(float(of(values)), 3) for name, of in (("median", np.median), ("min", np.min), ("max", np.max))}


def resources(process: int) -> dict[str, int]:
    """Resident bytes that are the process's own, its threads, and its open files."""
    status = Path(f"/proc/{process}/status").read_text("ascii", errors="replace")
    found = dict(re.findall(r"^(RssAnon|Threads):\s+(\d+)", status, re.MULTILINE))
    files = len(os.listdir(f"/proc/{process}/fd"))
    return {"own_bytes": 1024 * int(found["RssAnon"]), "threads": int(found["Threads"]), "open_files": files}


def under_fire(folder: Path, text: str, requests: int) -> dict[str, Any]:
    """Hostile requests in two halves after a warm-up: what the second half adds to memory would be a leak."""
    with server(folder) as (port, process):
        expected = [hit["id"] for hit in json.loads(Client(port).ask(text))["indexes"][0]["hits"]]
        bombard(port, requests // 10, seed=0)
        states, wrong, kinds, abandoned = [resources(process)], [], {}, 0
        began = time.perf_counter()
        for half in (1, 2):
            found = bombard(port, requests // 2, seed=half)
            wrong += found.wrong
            abandoned += found.abandoned
            for kind, count in found.kinds.items():
                kinds[kind] = kinds.get(kind, 0) + count
            states.append(resources(process))
        seconds = time.perf_counter() - began
        after = [hit["id"] for hit in json.loads(Client(port).ask(text))["indexes"][0]["hits"]]
        failures = sum(
            value
            for name, value in metrics(port).items()
            if name.startswith("ibkd_requests_total") and 'status="5' in name
        )
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "kinds": kinds,
        "abandoned": abandoned,
        "wrong_statuses": wrong[:20],
        "wrong_status_count": len(wrong),
        "server_errors": failures,
        "before": states[0],
        "half_way": states[1],
        "after": states[2],
        "same_answer_after": expected == after,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["bert-tiny", "paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2"])
    for name, default in (("pairs", 300), ("rounds", 5), ("requests", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "serve_load.json")
    given = parser.parse_args()
    # As the command sets it, before anything loads OpenMP: threads that wait spinning would take the server's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    corpus = str(given.data_dir / "cranfield")
    texts = [query.text for query in open_queries(corpus).queries]
    result: dict[str, Any] = {"load_average_before": os.getloadavg(), "models": {}}
    for model in given.models:
        encoder = Encoder.load(str(given.models_dir / model))
        folder = given.work_dir / f"cranfield-{model}"
        if not (folder / MANIFEST).exists():
            build_index(open_corpus(corpus), encoder, folder)
        suit_to_queries(encoder, 0)
        searcher = Searcher(open_index(folder), encoder)
        with server(folder) as (port, process):
            result["models"][model] = {
                "added": added(Client(port), searcher, texts, given.pairs),
                "throughput": throughput(port, process, searcher, texts, given.rounds, given.seconds),
            }
        print(model, json.dumps(result["models"][model], indent=2), flush=True)
    result["under_fire"] = under_fire(given.work_dir / f"cranfield-{given.models[0]}", texts[0], given.requests)
    print(json.dumps(result["under_fire"], indent=2))
    result |= {
        "load_average_after": os.getloadavg(),
        "date": datetime.date.today().isoformat(),
        "environment": read_environment().to_json(),
        "web_packages": {name: metadata.version(name) for name in WEB},
    }
    write_json(given.output, result)


if __name__ == "__main__":
    main()
