"""Peak memory and time of a training step, for the whole batch at once and in chunks within a memory limit.

usage: python benchmarks/training_memory.py --data-dir DIR --models-dir DIR [--teacher NAME] [--batch-size 256]

Each case is a process of its own that takes a few steps of stage 1 on abstracts of DIR/scifact: two layers of a
teacher, as `ibkd distill` makes them by default. All texts are as long as the maximum length, so a batch is as large as
can be. The teacher's vectors are random, since neither time nor memory depends on their values. "whole" encodes a batch
at once, as all versions before chunks did. Time is CPU time on one core, which other programs on the machine change
little, and wall-clock time. Writes benchmarks/results/training_memory.json (--output).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.files import write_json

WHOLE = "1TB"
CASES = {
    "whole, float32": (WHOLE, "float32", 1),
    "2 GB, float32": (None, "float32", 1),
    "2 GB, bfloat16": (None, "bfloat16", 1),
    "whole, bfloat16": (WHOLE, "bfloat16", 1),
    "1.2 GB, float32": ("1200MB", "float32", 1),
    "2 GB, float32, batch 4 times as large": ("2GB", "float32", 4),
}
STEPS = 3


def main() -> None:
    """Measure each case in a process of its own and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--teacher", default="all-MiniLM-L6-v2")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--case", help="Measure one case in this process and print it.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "training_memory.json")
    given = parser.parse_args()
    if given.case is not None:
        print(json.dumps(measure(given)))
        return
    load_before, rows = os.getloadavg()[0], {}
    for name in CASES:
        program = [sys.executable, __file__, *sys.argv[1:], "--case", name]
        done = subprocess.run(program, check=True, capture_output=True, text=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {rows[name]}", flush=True)
    values: dict[str, Any] = {"teacher": given.teacher, "layers": 2, "batch_size": given.batch_size}
    values |= {"max_length": given.max_length, "steps": STEPS, "cases": rows, "load_before": load_before}
    values |= {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
    write_json(given.output, values)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Take the steps of one case."""
    import torch

    from ibkd_retrieval.corpora.spec import open_corpus
    from ibkd_retrieval.distill.config import DistillConfig
    from ibkd_retrieval.distill.data.texts import TrainingTexts
    from ibkd_retrieval.distill.defaults import decided
    from ibkd_retrieval.distill.student import initial_student
    from ibkd_retrieval.distill.teacher.cache import TeacherCache
    from ibkd_retrieval.distill.training.stage1 import TrainingRun
    from ibkd_retrieval.encoders.device import keep_freed_memory
    from ibkd_retrieval.encoders.loading import load_sentence_transformer
    from ibkd_retrieval.indexing.building.memory import resident_bytes
    from ibkd_retrieval.progress import SILENT
    from step_time import RandomVectors  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    keep_freed_memory()
    memory, dtype, times = CASES[given.case]
    batch = given.batch_size * times
    documents = [document.content for document in open_corpus(str(given.data_dir / "scifact")).documents()]
    # Twice as many words as tokens are read: every text is as long as can be.
    texts = tuple(text for text in documents if len(text.split()) >= given.max_length)
    texts = tuple(f"{copy} {text}" for copy in range(-(-batch // len(texts))) for text in texts)
    config = decided(
        DistillConfig().with_parameters(
            batch_size=batch, max_length=given.max_length, learning_rate=1e-3, dtype=dtype, memory=memory
        )
    )
    teacher = load_sentence_transformer(str(given.models_dir / given.teacher), device="cpu")
    student = initial_student(config.student, teacher, given.teacher, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        cache: Any = TeacherCache(Path(folder) / "cache", RandomVectors())  # type: ignore[arg-type]
        run = TrainingRun(student, cache, TrainingTexts(texts, ()), config, SILENT)
        before, seconds, cpu = resident_bytes(), [], []
        for number in range(STEPS if times == 1 else 1):
            began, used = time.perf_counter(), time.process_time()
            run.step(number, detailed=False)
            seconds.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
    plan = run.student.plan
    return {
        "batch_size": batch,
        "tokens_a_chunk": plan.tokens,
        "tokens_kept": plan.kept if plan.tokens else None,
        "cpu_seconds_a_step": min(cpu[1:] or cpu),
        "seconds_a_step": statistics.median(seconds[1:] or seconds),
        "memory_before": before,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
