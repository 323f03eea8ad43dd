"""Requests a second of `/v1/embeddings`: one client and sixteen, by this toolkit's server and by infinity, in turn.

    python benchmarks/embeddings_load.py --data-dir DIR --model FOLDER [--infinity PATH/infinity_emb] [--rounds 5]

Both serve the same model on a CPU. Each request has one query of DIR/cranfield (BEIR folder), of some 20 words. In each
round every server is loaded once by one client and once by sixteen, in an order that changes from round to round. Idle
servers wait meanwhile. infinity is installed in an environment of its own: its pins clash with newer packages.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from http_load import embeddings_request, load_requests
from serve_load import COMMAND, processor_seconds, spread

CLIENTS = (1, 16)
PORTS = {"ibkd": 8801, "infinity float32": 8802, "infinity bfloat16": 8803}


@contextlib.contextmanager
def server(name: str, command: Sequence[str]) -> Iterator[int]:
    """Run a server until the block ends. Gives its process id, when it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/v1/models", timeout=5)
                break
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    """How each server is started."""
    model = str(given.model.resolve())
    found = {"ibkd": [sys.executable, "-c", COMMAND, "serve", "--embeddings", model, "--port", str(PORTS["ibkd"])]}
    if given.infinity is not None:
        for name in list(PORTS)[1:]:
            options = ["--engine", "torch", "--device", "cpu", "--dtype", name.split()[1], "--url-prefix", "/v1"]
            options += ["--port", str(PORTS[name]), "--host", "127.0.0.1", "--log-level", "error"]
            options += ["--no-bettertransformer", "--no-compile"]
            found[name] = [str(given.infinity), "v2", "--model-id", model, *options]
    return found


def names_of_models(given: argparse.Namespace) -> dict[str, str]:
    """The name that each server has for the model, as it lists it."""
    names = {}
    for name in commands(given):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/v1/models", timeout=60) as answer:
            names[name] = json.load(answer)["data"][0]["id"]
    return names


def vector(port: int, model: str, text: str) -> Any:
    """The vector of one text."""
    body = json.dumps({"model": model, "input": [text], "input_type": "query"}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        found = np.array(json.load(answer)["data"][0]["embedding"])
    return found / np.linalg.norm(found)


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data-dir", type=Path, required=True)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--infinity", type=Path, help="the command of infinity-emb, in its own environment")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "embeddings_load.json")
    given = options.parse_args()
    from ibkd_retrieval.corpora.spec import open_queries
    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    texts = [query.text for query in open_queries(str(given.data_dir / "cranfield")).queries]
    rates: dict[str, dict[int, list[float]]] = {}
    processor: dict[str, list[float]] = {}
    with contextlib.ExitStack() as running:
        processes = {name: running.enter_context(server(name, each)) for name, each in commands(given).items()}
        models = names_of_models(given)
        vectors = {name: vector(PORTS[name], models[name], texts[0]) for name in models}
        for number in range(given.rounds + 1):
            ways = [(name, clients) for name in processes for clients in CLIENTS]
            for name, clients in random.Random(number).sample(ways, len(ways)):
                requests = [embeddings_request(text, models[name]) for text in texts]
                before = processor_seconds(processes[name])
                found = load_requests(PORTS[name], requests, clients, given.seconds if number else 1.0)
                if number:  # The first round warms up.
                    rates.setdefault(name, {}).setdefault(clients, []).append(found.per_second)
                    if clients > 1:
                        taken = processor_seconds(processes[name]) - before
                        processor.setdefault(name, []).append(1000 * taken / len(found.milliseconds))
    result = {
        name: {
            **{f"{clients} clients, requests/s": spread(each) for clients, each in by.items()},
            "gain": spread(np.array(by[CLIENTS[-1]]) / np.array(by[1])),
            "processor_ms_a_request": spread(processor[name]),
            "cosine_to_ibkd": round(float(vectors[name] @ vectors["ibkd"]), 6),
        }
        for name, by in rates.items()
    }
    print(json.dumps(result, indent=1))
    what = {"model": given.model.name, "rounds": given.rounds, "seconds": given.seconds}
    if given.infinity is not None:
        shown = subprocess.run(
            [str(given.infinity.parent / "pip"), "list", "--format", "json"], capture_output=True, text=True, check=True
        )
        wanted = ("infinity-emb", "infinity_emb", "torch", "transformers", "sentence-transformers")
        what["infinity"] = {
            each["name"]: each["version"] for each in json.loads(shown.stdout) if each["name"] in wanted
        }
    what |= {"date": datetime.date.today().isoformat(), "load_average_after": os.getloadavg()}
    write_json(given.output, {"servers": result} | what | {"environment": read_environment().to_json()})


if __name__ == "__main__":
    main()
