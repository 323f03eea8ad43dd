"""Documents a second of a whole build against the encoder's bare speed, and peak memory against the budget.

usage: python benchmarks/index_pipeline.py --corpus CORPUS --model MODEL --work-dir DIR [--count 100000]

One real build of the first `--count` documents runs in a process of its own. Whenever `--every` further shards are done
it is stopped (SIGSTOP), and another process encodes the documents of one shard barely: `Encoder.encode` on texts in
memory, in a shard of the same size. So both see the machine at all times of the run, never together. The build's time
is from the loaded model to the finished manifest, without the stops; the bare speed is that of all samples together,
whose documents are spread over the whole corpus. Writes benchmarks/results/index_pipeline.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ibkd_retrieval.corpora.records import Corpus
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.build import build_index
from ibkd_retrieval.indexing.building.memory import parse_size, plan_memory
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.shards import read_records

WARM_UP = ["A sentence of some length, so that what is made at the first call is made now."] * 64


def first(corpus: Corpus, count: int) -> Corpus:
    """The first documents of a corpus."""
    return Corpus(f"{corpus.name} (first {count})", count, lambda: islice(corpus.documents(), count))


def build(given: argparse.Namespace) -> None:
    """Print when the model is loaded and when the index is finished; this process is the one that is stopped."""
    encoder = Encoder.load(given.model, dtype=given.dtype)
    corpus = first(open_corpus(given.corpus), given.count)
    plan = plan_memory(
        parse_size(given.memory),
        dim=encoder.dim,
        batch_tokens=encoder.batch_tokens,
        shard_size=given.shard_size,
        batches=encoder.batches_at_once,
        width=encoder.width,
    )
    encoder.encode(WARM_UP)
    print(json.dumps({"dtype": encoder.dtype}), flush=True)
    build_index(corpus, encoder, given.folder, family=given.type, memory=plan)
    print(
        json.dumps(
            {
                "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "environment": read_environment().to_json(),
            }
        ),
        flush=True,
    )


def bare(given: argparse.Namespace) -> None:
    """Answer each line, the first and last row of a sample, with the seconds that encoding its texts took."""
    encoder = Encoder.load(given.model, dtype=given.dtype)
    encoder.encode(WARM_UP)
    print("{}", flush=True)
    documents, read = iter(open_corpus(given.corpus).documents()), 0
    for line in sys.stdin:
        start, end = map(int, line.split())
        texts = [document.content for document in islice(documents, start - read, end - read)]
        read = end
        began = time.perf_counter()
        encoder.encode(texts)
        print(json.dumps({"documents": len(texts), "seconds": time.perf_counter() - began}), flush=True)


def begin(given: argparse.Namespace, job: str) -> subprocess.Popen[str]:
    """Start one of the two, and wait until its model is loaded."""
    command = [sys.executable, __file__, *sys.argv[1:], "--job", job]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(stream: IO[str] | None) -> dict[str, Any]:
    """The next line that a process prints."""
    line = stream.readline() if stream is not None else ""
    if not line:
        raise SystemExit("one of the two processes failed")
    value: dict[str, Any] = json.loads(line)
    return value


def main() -> None:
    """Build, stopping for samples of bare encoding, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--shard-size", type=int, default=1024)
    parser.add_argument("--every", type=int, default=10, help="shards between samples of bare encoding, one shard each")
    parser.add_argument("--memory", default="1500MB")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--type", default="ivf-pq")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "index_pipeline.json")
    parser.add_argument("--job", choices=("bare", "build"), help="in this process")
    given = parser.parse_args()
    given.folder = given.work_dir / f"built-{given.count}"
    if given.job is not None:
        (bare if given.job == "bare" else build)(given)
        return
    shutil.rmtree(given.folder, ignore_errors=True)
    sampler, builder = begin(given, "bare"), begin(given, "build")
    answer(sampler.stdout)
    # The bare encoder's loading may fall into the build's, but not into its work.
    dtype = answer(builder.stdout)["dtype"]
    began, stopped = time.perf_counter(), 0.0
    samples: list[dict[str, Any]] = []
    while builder.poll() is None:
        done = len(list(given.folder.glob("shards/*.json")))
        if done < given.every * (len(samples) + 1):
            time.sleep(0.02)
            continue
        stop = time.perf_counter()
        os.kill(builder.pid, signal.SIGSTOP)
        number = given.every * len(samples)
        if sampler.stdin is None:
            raise SystemExit("the bare encoder cannot be asked")
        sampler.stdin.write(f"{number * given.shard_size} {(number + 1) * given.shard_size}\n")
        sampler.stdin.flush()
        samples.append(answer(sampler.stdout))
        os.kill(builder.pid, signal.SIGCONT)
        stopped += time.perf_counter() - stop
        print(samples[-1], f"{done} shards in {time.perf_counter() - began - stopped:.1f} s", flush=True)
    seconds = time.perf_counter() - began - stopped
    finished = answer(builder.stdout)
    sampler.kill()
    manifest = verify_index(given.folder)
    records = read_records(given.folder)
    bare_speed = sum(sample["documents"] for sample in samples) / sum(sample["seconds"] for sample in samples)
    speed = manifest.document_count / seconds
    budget = parse_size(given.memory)
    result = {
        "what": "one whole build (read, tokenise, encode, write, checksum, sync, structure) against bare encoding",
        "corpus": Path(given.corpus).name,
        "model": Path(given.model).name,
        "dtype": dtype,
        "type": given.type,
        "documents": manifest.document_count,
        "shards": len(records),
        "build_seconds": round(seconds, 1),
        "structure_seconds": manifest.build.structure_seconds,
        "build_documents_per_second": round(speed, 1),
        "bare_samples": len(samples),
        "bare_documents": sum(sample["documents"] for sample in samples),
        "bare_documents_per_second": round(bare_speed, 1),
        "build_over_bare": round(speed / bare_speed, 3),
        "build_without_structure_over_bare": round(
            manifest.document_count / (seconds - manifest.build.structure_seconds) / bare_speed, 3
        ),
        "peak_bytes": finished["peak_bytes"],
        "memory_budget_bytes": budget,
        "within_budget": finished["peak_bytes"] <= budget,
        "date": datetime.date.today().isoformat(),
        "environment": finished["environment"],
    }
    write_json(given.output, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
