"""What the regression beside the contrast teaches: students of one's own corpus, by kind and weight.

usage: python benchmarks/regression_term.py --data-dir DIR --models-dir DIR --work-dir DIR [--kind NAME ...]
       [--weight W ...] [--seed N ...] [--set NAME ...] [--steps N] [--final]

DIR/scifact and the like are BEIR folders; models are folders of their names below --models-dir. A student learns from
SciFact's passages alone, with no query. Each cell is one student: a kind, a weight and a seed. What is not given is the
default of `ibkd_retrieval.distill` for that kind. Figures are nDCG@10 over a part of a set's passages: all that its
queries' judgements name first, then others in the set's order up to PASSAGES. All texts are cut to LENGTH tokens.
Cells are added to benchmarks/results/regression_term.json as they finish, with the paired test against weight 0 of the
same kind and seed; a cell that is there is not run again. --final measures SciFact's test queries and Cranfield.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.texts import gather_texts
from ibkd_retrieval.distill.defaults import projection_for, recipe_of, usual_learning_rate
from ibkd_retrieval.distill.initialise import initial_student, transformer_width
from ibkd_retrieval.distill.pipeline import open_cache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.environment import read_environment
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import is_static, reduce_dimension
from ibkd_retrieval.evaluation.evaluate import evaluate
from ibkd_retrieval.files import write_json
from ibkd_retrieval.progress import SILENT

LENGTH = 64
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


def judged(folder: Path, split: str) -> Judged:
    """The queries of a split, and at most PASSAGES passages unless the judgements name more."""
    found = open_queries(f"{folder}:{split}", need_judgements=True)
    judgements: dict[str, dict[str, int]] = {}
    for each in found.judgements:
        judgements.setdefault(each.query_id, {})[each.doc_id] = each.relevance
    named = {doc for grades in judgements.values() for doc in grades}
    every = {document.doc_id: document.content for document in open_corpus(str(folder)).documents()}
    others = [doc for doc in every if doc not in named]
    kept = [doc for doc in every if doc in named] + others[: max(0, PASSAGES - len(named))]
    queries = {query.query_id: query.text for query in found.queries if query.query_id in judgements}
    return Judged(queries, judgements, {doc: every[doc] for doc in kept})


def ranking(encoder: Encoder, data: Judged, documents: Encoder | None = None) -> dict[str, dict[str, float]]:
    """The ten best passages of each query, with their scores."""
    ids = list(data.passages)
    passages = (documents or encoder).encode(list(data.passages.values()))
    scores = encoder.encode(list(data.queries.values()), "query") @ passages.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return {
        query: {ids[column]: float(scores[row, column]) for column in best[row]}
        for row, query in enumerate(data.queries)
    }


def distilled(kind: str, weight: float, seed: int, steps: int, given: argparse.Namespace) -> tuple[Encoder, dict]:
    """A student of this kind, and what it took."""
    chosen = dict(KINDS[kind]) | {"regression_weight": weight, "seed": seed, "steps": steps, "batch_size": BATCH}
    for name in ("teacher", "student"):
        if name in chosen and chosen[name] != "static":
            chosen[name] = str(given.models_dir / chosen[name])
    chosen |= {"max_length": LENGTH, "dtype": "bfloat16"} | json.loads(given.options)
    recipe = recipe_of(DistillConfig().with_parameters(**chosen))
    plan, settings = recipe.plan, recipe.settings
    teacher = load_sentence_transformer(chosen["teacher"], device="cpu")
    student = initial_student(plan, teacher, chosen["teacher"], "cpu")
    if not is_static(student):
        student.max_seq_length = LENGTH
    rate = settings.learning_rate or usual_learning_rate(plan, settings.output_space, transformer_width(teacher))
    cache = open_cache(chosen["teacher"], copy.deepcopy(teacher), settings, given.work_dir)
    texts = gather_texts(open_corpus(str(given.data_dir / "scifact")), None)
    if plan.dim is not None and plan.model != "static":
        sample = Encoder(copy.deepcopy(student), "student", dtype="bfloat16").encode(texts.spread(1024))
        reduce_dimension(student, sample.astype(np.float32), plan.dim)
    dim = int(student.get_embedding_dimension() or 0)
    chosen_map = projection_for(settings, plan, dim, cache.dim)
    settings = type(settings)(**(vars(settings) | {"learning_rate": rate, "projection": chosen_map}))
    run = TrainingRun(student, cache, texts, settings, SILENT)
    run.start()
    began, last = time.perf_counter(), {}
    for number in range(steps):
        last = run.step(number, detailed=False)
    seconds = time.perf_counter() - began
    encoder = run.snapshot()
    run.close()
    terms = {name: float(value) for name, value in last.items() if name in ("keep", "kl", "regression", "bound")}
    facts = {"objective": settings.objective, "learning_rate": rate, "projection": chosen_map, "merge": settings.merge}
    return encoder, facts | {"seconds": seconds, "last_step": terms}


def teacher_encoder(kind: str, given: argparse.Namespace) -> Encoder:
    """The teacher of a kind, reading as much as the student."""
    name = str(given.models_dir / KINDS[kind]["teacher"])
    return Encoder(load_sentence_transformer(name, device="cpu", max_length=LENGTH), name, dtype="bfloat16")


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
    record = json.loads(given.result.read_text("utf-8")) if given.result.is_file() else {"teachers": [], "cells": []}
    sets = {
        name: judged(given.data_dir / name.split(":")[0], name.split(":")[1]) for name in given.set or ["scifact:train"]
    }
    for kind in given.kind or list(KINDS):
        taught = KINDS[kind]["teacher"]
        known = {each["set"] for each in record["teachers"] if each["teacher"] == taught}
        for name in sets.keys() - known:
            ranked = ranking(teacher_encoder(kind, given), sets[name])
            score = evaluate(ranked, sets[name].judgements)["ndcg@10"]
            record["teachers"].append(
                {
                    "teacher": taught,
                    "set": name,
                    "ndcg@10": score,
                    "passages": len(sets[name].passages),
                    "queries": len(sets[name].queries),
                }
            )
            print(record["teachers"][-1], flush=True)
        for seed in given.seed or [0]:
            for weight in given.weight or [0.0, 1.0, 5.0, 20.0]:
                cell = {
                    "kind": kind,
                    "weight": weight,
                    "seed": seed,
                    "steps": given.steps,
                    "options": json.loads(given.options),
                }
                done = {each["set"] for each in record["cells"] if cell.items() <= each.items()}
                if not sets.keys() - done:
                    continue
                student, facts = distilled(kind, weight, seed, given.steps, given)
                for name in sets.keys() - done:
                    ranked = ranking(student, sets[name])
                    runs = given.work_dir / "runs"
                    runs.mkdir(exist_ok=True)
                    options = given.options if given.options != "{}" else ""
                    path = (
                        runs
                        / f"{kind} {weight:g} {seed} {given.steps} {name.replace('/', '-')} {options.replace('/', '-')}.json"
                    )
                    write_json(path, ranked)
                    score = evaluate(ranked, sets[name].judgements)["ndcg@10"]
                    taught_score = next(
                        e["ndcg@10"] for e in record["teachers"] if e["teacher"] == taught and e["set"] == name
                    )
                    record["cells"].append(
                        cell | {"set": name, "ndcg@10": score, "retention": score / taught_score} | facts
                    )
                    print(record["cells"][-1], flush=True)
                record |= {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
                write_json(given.result, record)


if __name__ == "__main__":
    main()
