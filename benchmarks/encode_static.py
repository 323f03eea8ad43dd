"""Static models: texts a second beside model2vec and sentence-transformers, in one run.

    python benchmarks/encode_static.py --model FOLDER --sentences FILE [--texts 20000] [--rounds 5] [--output FILE]

FOLDER is a student of `ibkd distill --student static`; FILE holds a sentence a line, .zst or not. Of two lengths, as
they are and cut to 64 characters. In each round every system encodes texts that none has seen, the same for all, in an
order that changes from round to round. "fresh" is a new encoder, "running" one that has encoded `--before` other texts.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import io
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

SHORT = 64


def main() -> None:
    """Measure, print and write the result."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--sentences", type=Path, required=True)
    options.add_argument("--texts", type=int, default=20_000)
    options.add_argument("--before", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encode_static.json")
    given = options.parse_args()
    import torch

    from ibkd_retrieval.encoders.device import read_environment
    from ibkd_retrieval.files import write_json

    torch.set_num_threads(given.threads)
    wanted = given.before + given.rounds * given.texts
    whole = read(given.sentences, wanted)
    parts = {"sentences": whole, f"cut to {SHORT} characters": [first_words(text) for text in whole]}
    result: dict[str, Any] = {name: measure(texts, given) for name, texts in parts.items()}
    print(json.dumps(result, indent=1))
    packages = {name: metadata.version(name) for name in ("model2vec", "tokenizers") if importlib.util.find_spec(name)}
    environment = read_environment().to_json() | packages
    what = {"model": given.model.name, "encoded_before": given.before, "threads": given.threads}
    date = datetime.date.today().isoformat()
    write_json(given.output, result | what | {"date": date, "environment": environment})


def read(path: Path, count: int) -> list[str]:
    """The first lines of a file."""
    import pyarrow as pa

    with pa.input_stream(str(path)) as stream, io.TextIOWrapper(stream, encoding="utf-8") as file:
        return [line.rstrip("\n") for line in islice(file, count)]


def first_words(text: str) -> str:
    """As many first words as fit into so many characters."""
    return text if len(text) <= SHORT else text[: max(text.rfind(" ", 0, SHORT), 1)]


def measure(texts: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Texts a second of each system over the same texts in turn, and the least cosine of each to the first."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.encoder import Encoder

    peer = SentenceTransformer(str(given.model), device="cpu")
    running = Encoder.load(str(given.model), device="cpu")
    running.encode(texts[: given.before])
    systems: dict[str, Callable[[list[str]], Any]] = {
        "sentence-transformers": lambda part: peer.encode(part, show_progress_bar=False),
        "sentence-transformers, 1,024 a batch": lambda part: peer.encode(
            part, show_progress_bar=False, batch_size=1024
        ),
    }
    if importlib.util.find_spec("model2vec") is not None:
        from model2vec import StaticModel

        table = peer[0].embedding.weight.detach().numpy()
        theirs = StaticModel(table, peer.tokenizer, normalize=True)
        systems["model2vec"] = lambda part: theirs.encode(part, max_length=512)
    taken: dict[str, list[float]] = {name: [] for name in (*systems, "ibkd, fresh", "ibkd, running")}
    least: dict[str, float] = dict.fromkeys(taken, 1.0)
    for number in range(given.rounds):
        part = texts[given.before + number * given.texts :][: given.texts]
        fresh = Encoder.load(str(given.model), device="cpu")
        ours = {"ibkd, fresh": fresh.encode, "ibkd, running": running.encode}
        found = {}
        for name in random.Random(number).sample(list(taken), len(taken)):
            # model2vec switches it off, for whoever comes after it in the process too.
            os.environ["TOKENIZERS_PARALLELISM"] = "true"
            start = time.perf_counter()
            found[name] = (systems | ours)[name](part)
            taken[name].append(time.perf_counter() - start)
        exact = found["sentence-transformers"]
        for name, vectors in found.items():
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
            seen = norms > 0
            least[name] = min(least[name], float(((vectors * exact).sum(1)[seen] / norms[seen]).min()))
    return {
        "characters": statistics.mean(map(len, texts)),
        "tokens": statistics.mean(running.token_counts(texts[:2000])),
        "texts": given.texts,
        "rounds": given.rounds,
        "systems": {
            name: {
                "per_second": given.texts / statistics.median(each),
                "slowest": given.texts / max(each),
                "fastest": given.texts / min(each),
                "least_cosine": least[name],
            }
            for name, each in taken.items()
        },
    }


if __name__ == "__main__":
    main()
