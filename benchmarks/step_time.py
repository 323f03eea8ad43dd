"""Where the time of a training step goes, and what negatives from the bank and the forgetting term add to it.

usage: python benchmarks/step_time.py --data-dir DIR --models-dir DIR [--student NAME] [--rounds 20] [--device DEVICE]
       [--collections NAME ...] [--texts N]

Several runs of stage 1 of one student with the same batches, which differ in one thing each, take a step in turn, in an
order drawn anew each round: ibkd without a bank, with 4,096 and with 16,384 negatives from it, and infonce with 4,096.
Texts are documents of the BEIR folders DIR/medquad, DIR/nfcorpus and DIR/scifact. The teacher's vectors are in a cache,
as they are after the first run on a text; they are random unit vectors here, as long as those of all-mpnet-base-v2,
since the time depends on their number and length only. Medians over rounds, the first two left out. Writes
benchmarks/results/step_time.json (--output).
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.encoders.device import choose_device, read_environment
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.files import write_json
from ibkd_retrieval.progress import SILENT

COLLECTIONS = ("medquad", "nfcorpus", "scifact")
TEACHER_DIM = 768
CASES: dict[str, dict[str, Any]] = {
    "ibkd, no bank": {"bank_size": 0},
    "ibkd, bank of 4,096": {"bank_size": 4096},
    "ibkd, bank of 16,384": {"bank_size": 16384},
    "infonce, bank of 4,096": {"bank_size": 4096, "objective": "infonce"},
}
WARMUP = 2


class RandomVectors:
    """Stands for a teacher: a random unit vector for each text."""

    name, weight_hash, dim, max_length, dtype = "random", "0" * 64, TEACHER_DIM, 0, "float32"
    prompts = {"query": "", "document": ""}  # noqa: RUF012

    def encode(self, texts: Any, kind: str = "document", progress: Any = None) -> np.ndarray:
        """Vectors [n, 768]."""
        return np.random.default_rng(len(texts)).standard_normal((len(texts), self.dim)).astype(np.float32)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--student", default="paraphrase-MiniLM-L3-v2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--collections", nargs="+", default=list(COLLECTIONS))
    parser.add_argument("--texts", type=int, help="at most so many")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "step_time.json")
    given = parser.parse_args()
    # Cut where the tokenizer would, roughly, as every run cuts texts into tokens for itself.
    documents = [
        document.content.strip()[: 8 * given.max_length]
        for name in given.collections
        for document in open_corpus(str(given.data_dir / name)).documents()
    ]
    texts = TrainingTexts(tuple(dict.fromkeys(text for text in documents if text))[: given.texts], ())
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        cache: Any = TeacherCache(Path(folder) / "cache", RandomVectors())  # type: ignore[arg-type]
        runs = {}
        for name, changed in CASES.items():
            student = load_sentence_transformer(
                str(given.models_dir / given.student), device=choose_device(given.device)
            )
            shared = {"batch_size": given.batch_size, "max_length": given.max_length, "learning_rate": 1e-4}
            kept = {"objective": "ibkd", "regression_weight": 0.0, "merge": 0.0, "freeze_embeddings": False}
            settings = decided(DistillConfig().with_parameters(**(shared | kept | changed)))
            runs[name] = TrainingRun(student, cache, texts, settings, SILENT)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        parts: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        generator = np.random.default_rng(0)
        for number in range(given.rounds):
            for name in generator.permutation(list(runs)).tolist():
                # Timed from outside without the clock that parts the step, then once more with it.
                began = time.perf_counter()
                values = runs[name].step(number, detailed=False)
                if not np.isfinite(values["loss"]):
                    raise SystemExit(f"{name}: the loss is no number at step {number}")
                seconds[name].append(time.perf_counter() - began)
                detailed = runs[name].step(number, detailed=True)
                parts[name].append({key: detailed[key] for key in detailed if key.startswith("ms_")})
            print(
                f"round {number}: {', '.join(f'{name} {each[-1]:.2f} s' for name, each in seconds.items())}", flush=True
            )
    rows = {name: _row(seconds[name][WARMUP:], parts[name][WARMUP:]) for name in runs}
    for row in rows.values():
        print(row)
    write_json(
        given.output,
        {
            "student": given.student,
            "batch_size": given.batch_size,
            "max_length": given.max_length,
            "texts": len(texts),
            "rounds": given.rounds - WARMUP,
            "cases": rows,
            # Round by round, so that what else the machine did falls out.
            "bank_of_16384_costs": _more(seconds["ibkd, bank of 16,384"], seconds["ibkd, no bank"]),
            "bank_of_4096_costs": _more(seconds["ibkd, bank of 4,096"], seconds["ibkd, no bank"]),
            "forgetting_costs": _more(seconds["ibkd, bank of 4,096"], seconds["infonce, bank of 4,096"]),
            "load_before": load_before,
            "date": datetime.date.today().isoformat(),
            "environment": read_environment().to_json(),
        },
    )


def _row(seconds: list[float], parts: list[dict[str, float]]) -> dict[str, Any]:
    milliseconds = {key: statistics.median(each[key] for each in parts) for key in parts[0]}
    step = ("ms_student", "ms_teacher", "ms_objective", "ms_optimiser")
    shares = [each["ms_student"] / sum(each[key] for key in step) for each in parts]
    return {"seconds": statistics.median(seconds), "student_share": statistics.median(shares)} | milliseconds


def _more(longer: list[float], shorter: list[float]) -> float:
    """By which share a step takes longer, the median over rounds."""
    return statistics.median(a / b - 1 for a, b in zip(longer[WARMUP:], shorter[WARMUP:], strict=True))


if __name__ == "__main__":
    main()
