"""What the regression beside the contrast teaches: students of one's own corpus, by kind and weight.

usage: python benchmarks/regression_term.py --data-dir DIR --models-dir DIR --work-dir DIR [--kind NAME ...]
       [--weight W ...] [--seed N ...] [--set FOLDER:SPLIT ...] [--steps N] [--options JSON]

DIR/scifact and the like are BEIR folders; models are folders of their names below --models-dir. A student learns from
SciFact's passages alone, or from `max_documents` of them, and from no query. Each cell is one student: a kind, a weight
of the regression and a seed. What is not given is the default of `ibkd_retrieval.distill` for that kind. Figures are
nDCG@10 over a part of a set's passages: all that its judgements name, then others in the set's order up to PASSAGES.
Students and teachers read LENGTH tokens of a text. Students learn and encode in bfloat16. A cell that the result holds
is not run again. Each student is tested against that of weight 0, its kind and its seed, query by query. Writes
benchmarks/results/regression_term.json.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer

from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.texts import gather_texts
from ibkd_retrieval.distill.defaults import decided, with_models
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.distill.student import initial_student, transformer_width
from ibkd_retrieval.distill.teacher.model import open_cache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import is_static, reduce_dimension
from ibkd_retrieval.evaluation.evaluate import evaluate
from ibkd_retrieval.files import write_json
from ibkd_retrieval.progress import SILENT

LENGTH = 64
DTYPE = "bfloat16"
WEIGHTS = (0.0, 1.0, 5.0, 20.0)
BATCH = 64
PASSAGES = 1500
RESULT = Path(__file__).parent / "results" / "regression_term.json"
MINILM, MPNET = "all-MiniLM-L6-v2", "all-mpnet-base-v2"
KINDS: dict[str, dict[str, Any]] = {
    "two layers of MiniLM-L6, 128 dims": {"teacher": MINILM, "layers": 2, "dim": 128},
    "three layers of mpnet, 384 dims": {"teacher": MPNET, "layers": 3, "dim": 384},
    "MiniLM-L3": {"teacher": MINILM, "student": "paraphrase-MiniLM-L3-v2"},
    "MiniLM-L3, thorough": {"teacher": MINILM, "student": "paraphrase-MiniLM-L3-v2", "preset": "thorough"},
    "MiniLM-L3 in the teacher's space": {
        "teacher": MINILM,
        "student": "paraphrase-MiniLM-L3-v2",
        "output_space": "teacher",
    },
    "bert-tiny": {"teacher": MINILM, "student": "bert-tiny", "pooling": "mean"},
    "static": {"teacher": MINILM, "student": "static"},
}


class Judged(NamedTuple):
    """Queries with judgements, and the passages they are searched in."""

    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    passages: dict[str, str]


def judged(folder: Path, split: str, passages: int = PASSAGES, queries: int | None = None) -> Judged:
    """The queries of a split, and at most so many passages unless the judgements name more."""
    found = open_queries(f"{folder}:{split}", need_judgements=True)
    asked = list(dict.fromkeys(each.query_id for each in found.judgements))
    asked = asked[:: max(1, -(-len(asked) // (queries or len(asked))))]
    judgements: dict[str, dict[str, int]] = {query: {} for query in asked}
    for each in found.judgements:
        if each.query_id in judgements:
            judgements[each.query_id][each.doc_id] = each.relevance
    named = {doc for grades in judgements.values() for doc in grades}
    every = {document.doc_id: document.content for document in open_corpus(str(folder)).documents()}
    others = [doc for doc in every if doc not in named]
    kept = [doc for doc in every if doc in named] + others[: max(0, passages - len(named))]
    texts = {query.query_id: query.text for query in found.queries if query.query_id in judgements}
    return Judged(texts, judgements, {doc: every[doc] for doc in kept})


def ranking(encoder: Encoder, data: Judged, passages: np.ndarray) -> dict[str, dict[str, float]]:
    """The ten best of a set's passages [n, d] for each query, with their scores."""
    ids = list(data.passages)
    scores = encoder.encode(list(data.queries.values()), "query") @ passages.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return {
        query: {ids[column]: float(scores[row, column]) for column in best[row]}
        for row, query in enumerate(data.queries)
    }


@functools.cache
def models(config: StudentConfig, name: str) -> tuple[SentenceTransformer, SentenceTransformer]:
    """A teacher, and its untrained student."""
    teacher = load_sentence_transformer(name, device="cpu")
    student = initial_student(config, teacher, name, "cpu")
    if not is_static(student):
        student.max_seq_length = LENGTH
    return teacher, student


def distilled(kind: str, weight: float, seed: int, steps: int, given: argparse.Namespace) -> tuple[Encoder, dict]:
    """A student of this kind, and what it took."""
    chosen = dict(KINDS[kind]) | {"regression_weight": weight, "seed": seed, "steps": steps, "batch_size": BATCH}
    for name in ("teacher", "student"):
        if name in chosen and chosen[name] != "static":
            chosen[name] = str(given.models_dir / chosen[name])
    chosen |= {"max_length": LENGTH, "dtype": DTYPE} | json.loads(given.options)
    config = decided(DistillConfig().with_parameters(**chosen))
    teacher, untrained = models(config.student, chosen["teacher"])
    student = copy.deepcopy(untrained)
    cache = open_cache(chosen["teacher"], copy.deepcopy(teacher), config.training, given.work_dir)
    texts = gather_texts(open_corpus(str(given.data_dir / "scifact")), None, limit=config.data.max_documents)
    if config.student.dim and config.student.model != "static":
        sample = Encoder(copy.deepcopy(student), "student", dtype=DTYPE).encode(texts.spread(1024))
        reduce_dimension(student, sample.astype(np.float32), config.student.dim)
    dim = int(student.get_embedding_dimension() or 0)
    config = with_models(config, dim, cache.dim, transformer_width(teacher))
    run = TrainingRun(student, cache, texts, config, SILENT)
    run.start()
    began, last = time.perf_counter(), {}
    for number in range(steps):
        last = run.step(number, detailed=False)
    seconds = time.perf_counter() - began
    encoder = run.snapshot()
    run.close()
    terms = {name: float(value) for name, value in last.items() if name in ("keep", "kl", "regression", "bound")}
    facts = {name: config.value(name) for name in ("objective", "learning_rate", "projection", "merge")}
    return encoder, facts | {"seconds": seconds, "last_step": terms}


class Bench:
    """The judged sets, and the result so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Read both."""
        self.given, self.steps, self.options = given, given.steps, json.loads(given.options)
        splits = {name: name.split(":") for name in given.set or ["scifact:train", "nfcorpus:dev"]}
        self.sets = {name: judged(given.data_dir / folder, split) for name, (folder, split) in splits.items()}
        empty: dict[str, Any] = {"teachers": [], "cells": [], "tests": []}
        self.record = empty | (json.loads(given.result.read_text("utf-8")) if given.result.is_file() else {})

    def teach(self, name: str) -> None:
        """Measure a teacher on the sets it was not yet measured on, reading as much of a text as the students do."""
        done = {each["set"] for each in self.record["teachers"] if each["teacher"] == name}
        for missing in sorted(self.sets):
            if missing in done and self.taught(name, missing).is_file():
                continue
            data, folder = self.sets[missing], str(self.given.models_dir / name)
            model = load_sentence_transformer(folder, device="cpu", max_length=LENGTH)
            encoder = Encoder(model, name, dtype=DTYPE)
            passages = encoder.encode(list(data.passages.values()))
            np.save(self.taught(name, missing), passages)
            score = self.score(missing, ranking(encoder, data, passages))
            sizes = {"queries": len(data.queries), "passages": len(data.passages)}
            if missing not in done:
                self.record["teachers"].append({"teacher": name, "set": missing, "ndcg@10": score} | sizes)

    def score(self, name: str, ranked: dict[str, dict[str, float]]) -> float:
        """nDCG@10 of the answers to a set's queries."""
        return evaluate(ranked, self.sets[name].judgements)["ndcg@10"]

    def cell(self, kind: str, weight: float, seed: int) -> None:
        """Make one student, and measure it on the sets it was not yet measured on."""
        cell = {"kind": kind, "weight": weight, "seed": seed, "steps": self.steps, "options": self.options}
        missing = self.sets.keys() - {each["set"] for each in self.record["cells"] if cell.items() <= each.items()}
        if not missing:
            return
        self.teach(KINDS[kind]["teacher"])
        student, facts = distilled(kind, weight, seed, self.steps, self.given)
        for name in sorted(missing):
            data, teacher = self.sets[name], KINDS[kind]["teacher"]
            asks_teacher = KINDS[kind].get("output_space") == "teacher"
            stored = self.taught(teacher, name) if asks_teacher else None
            passages = np.load(stored) if stored else student.encode(list(data.passages.values()))
            ranked = ranking(student, data, passages)
            write_json(self.answers(kind, weight, seed, name), ranked)
            taught = {(each["teacher"], each["set"]): each["ndcg@10"] for each in self.record["teachers"]}
            score = self.score(name, ranked)
            found = {"set": name, "ndcg@10": score, "retention": score / taught[KINDS[kind]["teacher"], name]}
            self.record["cells"].append(cell | found | facts)
            print(cell | found, flush=True)

    def test(self, kind: str, weight: float, seed: int) -> None:
        """Test a student against that of the same seed without the regression, query by query."""
        for name, data in self.sets.items():
            paths = [self.answers(kind, each, seed, name) for each in (weight, 0.0)]
            which = {"kind": kind, "weight": weight, "seed": seed, "steps": self.steps, "options": self.options}
            which["set"] = name
            tested = any(which.items() <= each.items() for each in self.record["tests"])
            if tested or not weight or not all(path.is_file() for path in paths):
                continue
            with_it, without = (json.loads(path.read_text("utf-8")) for path in paths)
            scores = evaluate({"with": with_it}, data.judgements, baseline={"without": without})
            (contrast,) = scores.contrasts
            self.record["tests"].append(which | contrast.to_json())

    def taught(self, teacher: str, name: str) -> Path:
        """The file of a teacher's vectors of a set's passages."""
        return self.given.work_dir / f"{teacher} {name}.npy"

    def answers(self, kind: str, weight: float, seed: int, name: str) -> Path:
        """The file of a student's answers."""
        options = "" if self.given.options == "{}" else self.given.options.replace("/", "-")
        folder = self.given.work_dir / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{kind} {weight:g} {seed} {self.steps} {name} {options}.json"

    def write(self) -> None:
        """Write the result."""
        today = {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
        setting = {"tokens": LENGTH, "batch": BATCH, "passages": PASSAGES, "corpus": "BEIR SciFact's passages"}
        write_json(self.given.result, setting | self.record | today)


def main() -> None:
    """Run the cells that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--weight", action="append", type=float)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--set", action="append", help="folder and split, such as scifact:train")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--options", default="{}", help="further parameters of distill(), as JSON")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    bench = Bench(given)
    for kind in given.kind or list(KINDS):
        for seed in given.seed or [0]:
            for weight in given.weight or WEIGHTS:
                bench.cell(kind, weight, seed)
                bench.write()
            for weight in given.weight or WEIGHTS:
                bench.test(kind, weight, seed)
            bench.write()


if __name__ == "__main__":
    main()
