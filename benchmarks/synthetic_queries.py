"""What queries made of the passages add for a student of one's own corpus, by kind of student and number of queries.

usage: python benchmarks/synthetic_queries.py --data-dir DIR --models-dir DIR --work-dir DIR [--kind NAME ...]
       [--corpus NAME ...] [--number N ...] [--seed N ...]

Kinds, lengths and batches are those of `regression_term.py`, and so are the parts of a set over which nDCG@10 is
measured. A student learns from the passages of SciFact or NFCorpus, and is asked SciFact's training queries or
NFCorpus's dev queries, which nothing else reads. Synthetic queries are shorter than passages. So a run with them takes
more steps than STEPS, in the ratio of the mean numbers of tokens: the cost stays about the same. A cell that the
result holds is not run again. Writes benchmarks/results/synthetic_queries.json.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.synthetic import synthetic_queries
from ibkd_retrieval.distill.data.texts import TrainingTexts, gather_texts
from ibkd_retrieval.distill.defaults import decided, with_models
from ibkd_retrieval.distill.preparing import complete_student
from ibkd_retrieval.distill.student import transformer_width
from ibkd_retrieval.distill.teacher.model import open_cache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.evaluation.evaluate import evaluate
from ibkd_retrieval.files import write_json
from ibkd_retrieval.progress import SILENT
from regression_term import BATCH, DTYPE, KINDS, LENGTH, PASSAGES, judged, models, ranking

STEPS = 120
RESULT = Path(__file__).parent / "results" / "synthetic_queries.json"
SPLITS = {"scifact": "train", "nfcorpus": "dev"}


def texts_with(folder: Path, number: int, seed: int) -> TrainingTexts:
    """The passages of a corpus, with so many queries made of each."""
    corpus = open_corpus(str(folder))
    texts = gather_texts(corpus, None)
    made = synthetic_queries(corpus, texts.documents, number, seed) if number else []
    known = set(texts.documents)
    return TrainingTexts(texts.documents, tuple(query.text for query in made if query.text not in known))


def longer(texts: TrainingTexts, tokenizer: Any) -> float:
    """The mean number of tokens of a passage, divided by that of a text."""

    def mean(part: Sequence[str]) -> float:
        return float(np.mean([min(LENGTH, len(ids)) for ids in tokenizer(list(part)[::5])["input_ids"]]))

    if not texts.queries:
        return 1.0
    each, query = mean(texts.documents), mean(texts.queries)
    return each * len(texts) / (each * len(texts.documents) + query * len(texts.queries))


def measure(cell: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Make one student and ask it the judged queries."""
    kind, folder = KINDS[cell["kind"]], given.data_dir / cell["corpus"]
    teacher_name = str(given.models_dir / kind["teacher"])
    chosen = dict(kind) | {"teacher": teacher_name, "seed": cell["seed"], "batch_size": BATCH}
    if chosen.get("student", "static") != "static":
        chosen["student"] = str(given.models_dir / chosen["student"])
    texts = texts_with(folder, cell["number"], cell["seed"])
    config = decided(DistillConfig().with_parameters(**chosen, max_length=LENGTH, dtype=DTYPE))
    teacher, untrained = models(config.student, teacher_name)
    student = copy.deepcopy(untrained)
    steps = round(STEPS * longer(texts, teacher.tokenizer))
    cache = open_cache(teacher_name, copy.deepcopy(teacher), config.training, given.work_dir)
    complete_student(config, student, texts)
    config = config.with_parameters(steps=steps)
    config = with_models(config, int(student.get_embedding_dimension() or 0), cache.dim, transformer_width(teacher))
    run = TrainingRun(student, cache, texts, config, SILENT)
    run.start()
    began = time.process_time()
    for number in range(steps):
        run.step(number, detailed=False)
    seconds = time.process_time() - began
    encoder = run.snapshot()
    run.close()
    retention = figure(encoder, folder) / taught(teacher_name, folder)
    return {"steps": steps, "queries": len(texts.queries), "seconds": seconds, "retention": retention}


def figure(encoder: Encoder, folder: Path) -> float:
    """nDCG@10 of the judged queries of a corpus."""
    data = judged(folder, SPLITS[folder.name])
    return evaluate(ranking(encoder, data, encoder.encode(list(data.passages.values()))), data.judgements)["ndcg@10"]


@functools.cache
def taught(teacher: str, folder: Path) -> float:
    """The figure of a teacher that reads as much of a text as the students do."""
    return figure(
        Encoder(load_sentence_transformer(teacher, device="cpu", max_length=LENGTH), "t", dtype=DTYPE), folder
    )


def main() -> None:
    """Run the cells that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--corpus", action="append", choices=list(SPLITS))
    parser.add_argument("--number", action="append", type=int)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    cells: list[dict[str, Any]] = []
    if given.result.is_file():
        cells = json.loads(given.result.read_text("utf-8"))["cells"]
    for kind in given.kind or ["static", "two layers of MiniLM-L6, 128 dims"]:
        for corpus in given.corpus or SPLITS:
            for seed in given.seed or [0]:
                for number in given.number or [0, 2]:
                    cell = {"kind": kind, "corpus": corpus, "seed": seed, "number": number}
                    if any(cell.items() <= each.items() for each in cells):
                        continue
                    cells.append(cell | measure(cell, given))
                    print(cells[-1], flush=True)
                    today = {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
                    setting = {"tokens": LENGTH, "batch": BATCH, "passages": PASSAGES, "steps": STEPS}
                    write_json(given.result, setting | {"cells": cells} | today)


if __name__ == "__main__":
    main()
