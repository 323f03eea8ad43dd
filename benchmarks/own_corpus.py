"""What a student keeps of its teacher on the corpus that it learnt from, by corpus and kind of student.

usage: python benchmarks/own_corpus.py --data-dir DIR --models-dir DIR --work-dir DIR [--corpus NAME ...]
       [--student NAME ...] [--teacher MODEL] [--minutes M | --steps N ...] [--synthetic-queries N] [--seed N ...]
       [--options JSON] [--only-report]

DIR/scifact and the like are BEIR folders; models are folders of their names below --models-dir. A student learns from
the passages of one corpus, and is then asked that corpus's judged queries, which nothing else reads. Of a corpus at
most PASSAGES passages are taken: all that the judgements name, then others in the corpus's order. QUERIES of its
queries are taken, evenly spaced. scifact:train asks the training queries. Students learn for a number of minutes of one
core's time, so that other work beside does not shorten the training, or for a number of steps. Teacher vectors come on
top, and so does the start: the fit of a static student's table. Cells without `starting_seconds` were made before there
was that fit: their static students start as model2vec makes them. What is not given is the default of
`ibkd_retrieval.distill`, but for LENGTH tokens, batches of BATCH texts, and bfloat16. The interval of a retention is
that of a paired bootstrap over queries.

A cell is a file below --work-dir, and is not run again. Several processes may run cells at once. Writes
benchmarks/results/own_corpus.json from all cells there are, and prints them as a table.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import json
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from sentence_transformers import SentenceTransformer

from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.synthetic import synthetic_queries
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.defaults import decided, with_models
from ibkd_retrieval.distill.preparing import complete_student
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.distill.student import transformer_width
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.teacher.model import open_cache
from ibkd_retrieval.distill.training.stage1 import TrainingRun, step_seconds
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.vocabulary import cut_vocabulary
from ibkd_retrieval.evaluation.evaluate import evaluate
from ibkd_retrieval.evaluation.significance import bootstrap_means, percentiles
from ibkd_retrieval.files import write_json
from ibkd_retrieval.progress import SILENT
from regression_term import BATCH, DTYPE, LENGTH, Judged, judged, models, ranking

PASSAGES, QUERIES = 1500, 500
METRIC = "ndcg@10"
RESULT = Path(__file__).parent / "results" / "own_corpus.json"
CORPORA = {
    "scifact": "test",
    "nfcorpus": "dev",
    "cranfield": "test",
    "cisi": "test",
    "vaswani": "test",
    "medquad": "train",
}
TUNING = "scifact:train"
"""A split of a corpus on which defaults are chosen, as on NFCorpus dev."""
STUDENTS: dict[str, dict[str, Any]] = {
    "two layers, 128 dims": {"layers": 2, "dim": 128},
    "three layers, all dims": {"layers": 3, "dim": 0},
    "three layers, 384 dims": {"layers": 3, "dim": 384},
    "MiniLM-L3": {"student": "paraphrase-MiniLM-L3-v2"},
    "static": {"student": "static"},
}


def measured(encoder: Encoder, data: Judged, cache: TeacherCache | None = None) -> tuple[dict, dict[str, float]]:
    """nDCG@10 of each query, and what encoding took. What a teacher's cache holds is encoded no second time."""
    texts = list(data.passages.values())
    encoder.encode(texts[:64])
    timed = texts[::8] if cache else texts
    began = time.process_time()
    passages = encoder.encode(timed)
    seconds = time.process_time() - began
    if cache:
        passages = cache.vectors(cache.rows([text.strip() for text in texts], "document"))
    scores = evaluate(ranking(encoder, data, passages), data.judgements, METRIC)
    memory = {"model_bytes": encoder.model_bytes, "vector_bytes": 4 * passages.shape[1]}
    facts = {"passages_per_second": len(timed) / seconds} | memory
    return scores.per_query(METRIC), facts


class Bench:
    """The cells of one teacher."""

    def __init__(self, given: argparse.Namespace) -> None:
        """Take the arguments."""
        self.given, self.teacher = given, str(given.models_dir / given.teacher)
        self.cells = given.work_dir / "cells"
        self.cells.mkdir(parents=True, exist_ok=True)

    def data(self, corpus: str) -> Judged:
        """The passages of a corpus, and its judged queries."""
        folder, _, split = corpus.partition(":")
        return judged(self.given.data_dir / folder, split or CORPORA[folder], passages=PASSAGES, queries=QUERIES)

    def taught(self, corpus: str, data: Judged) -> dict[str, Any]:
        """The figures of the teacher, measured once."""
        path = self.given.work_dir / f"{self.given.teacher} {corpus}.json"
        if not path.is_file():
            settings = DistillConfig().with_parameters(max_length=LENGTH, dtype=DTYPE).training
            model = load_sentence_transformer(self.teacher, device="cpu")
            cache = open_cache(self.teacher, model, settings, self.given.work_dir)
            each, facts = measured(cast(Encoder, cache.teacher), data, cache)
            write_json(path, facts | {"each": each})
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found

    def texts(self, corpus: str, data: Judged, seed: int) -> TrainingTexts:
        """The passages, and queries made of them."""
        passages = dict.fromkeys(text.strip() for text in data.passages.values() if text.strip())
        number, documents = self.given.synthetic_queries, open_corpus(str(self.given.data_dir / corpus.split(":")[0]))
        made = synthetic_queries(documents, passages, number, seed) if number else []
        return TrainingTexts(tuple(passages), tuple(query.text for query in made if query.text not in passages))

    def distilled(self, student: str, texts: TrainingTexts, cell: dict[str, Any]) -> tuple[Encoder, dict[str, Any]]:
        """A student of these texts, and how it learnt."""
        chosen = {"teacher": self.teacher, "seed": cell["seed"], "batch_size": BATCH} | STUDENTS[student]
        chosen |= cell.get("options", {})
        if chosen.get("student", "static") != "static":
            chosen["student"] = str(self.given.models_dir / chosen["student"])
        config = decided(DistillConfig().with_parameters(**chosen, max_length=LENGTH, dtype=DTYPE))
        teacher, model = self.models(config.student)
        cache = open_cache(self.teacher, copy.deepcopy(teacher), config.training, self.given.work_dir)
        if config.student.vocabulary == "corpus":
            model = cut_vocabulary(model, texts.documents)
        began = time.process_time()
        for kind, part in (("document", texts.documents), ("query", texts.queries)):
            cache.rows(part, kind)
        teaching = time.process_time() - began
        complete_student(config, model, texts)
        config = with_models(config, int(model.get_embedding_dimension() or 0), cache.dim, transformer_width(teacher))
        steps = cell.get("steps")
        if steps is None:
            each = step_seconds(model, cache, texts, config, SILENT, clock=time.process_time)
            steps = max(1, round(60 * cell["minutes"] / each))
        config = config.with_parameters(steps=steps)
        run = TrainingRun(model, cache, texts, config, SILENT)
        began = time.process_time()
        run.start()
        starting = time.process_time() - began
        began = time.process_time()
        for number in range(config.training.steps):
            run.step(number, detailed=False)
        seconds = time.process_time() - began
        encoder = run.snapshot()
        run.close()
        facts = {name: config.value(name) for name in ("steps", "objective", "learning_rate", "regression_weight")}
        facts["passes"] = config.training.steps * BATCH / len(texts)
        spent = {"seconds": seconds, "starting_seconds": starting, "teaching_seconds": teaching}
        return encoder, facts | {"texts": len(texts)} | spent

    def models(self, config: StudentConfig) -> tuple[SentenceTransformer, SentenceTransformer]:
        """The teacher, and a copy of its untrained student. A static one takes minutes to make, and is kept."""
        kept = self.given.work_dir / f"{self.given.teacher} {config.model} {config.dim}"
        if kept.is_dir():
            return load_sentence_transformer(self.teacher, device="cpu"), SentenceTransformer(str(kept), device="cpu")
        teacher, untrained = models(config, self.teacher)
        if config.model == "static":
            untrained.save(str(kept))
        return teacher, copy.deepcopy(untrained)

    def cell(self, corpus: str, student: str, seed: int, steps: int | None) -> None:
        """Make one student and measure it."""
        given = self.given
        cell: dict[str, Any] = {"corpus": corpus, "teacher": given.teacher, "student": student}
        cell |= {"minutes": given.minutes} if steps is None else {"steps": steps}
        cell |= {"synthetic_queries": given.synthetic_queries, "seed": seed}
        cell |= {"options": options} if (options := json.loads(given.options)) else {}
        path = self.cells / f"{' '.join(f'{value}' for value in cell.values()).replace('/', '-')}.json"
        if path.is_file():
            return
        data = self.data(corpus)
        teacher = self.taught(corpus, data)
        encoder, facts = self.distilled(student, self.texts(corpus, data, seed), cell)
        kept, own = measured(encoder, data)
        pairs = np.array([[value, teacher["each"][query]] for query, value in kept.items()])
        (mine, theirs), resampled = pairs.mean(axis=0), bootstrap_means(pairs)
        found = {"queries": len(pairs), "passages": len(data.passages), METRIC: mine, f"teacher_{METRIC}": theirs}
        found |= {"retention": mine / theirs, "interval": percentiles(resampled[:, 0] / resampled[:, 1])}
        found["speed_up"] = own["passages_per_second"] / teacher["passages_per_second"]
        write_json(path, cell | found | own | facts)

    def report(self) -> None:
        """Write the result of all cells, and print it."""
        cells = [json.loads(path.read_text("utf-8")) for path in sorted(self.cells.glob("*.json"))]
        today = {"date": datetime.date.today().isoformat(), "environment": read_environment().to_json()}
        setting = {"tokens": LENGTH, "batch": BATCH, "dtype": DTYPE, "passages": PASSAGES, "queries": QUERIES}
        write_json(self.given.result, setting | {"cells": cells} | today)
        print("| corpus | teacher | student | minutes | steps | seed | keeps | 95 % | speed | model | vector |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for each in cells:
            low, high = each["interval"]
            print(
                f"| {each['corpus']} | {each['teacher']} | {each['student']} {each.get('options', '')} "
                f"| {each.get('minutes', '')} | {each['steps']} | {each['seed']} "
                f"| {each['retention']:.1%} | {low:.1%} to {high:.1%} | {each['speed_up']:.1f} "
                f"| {each['model_bytes'] / 1e6:.0f} MB | {each['vector_bytes']} bytes |"
            )


def main() -> None:
    """Run the cells that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data-dir", "--models-dir", "--work-dir"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--corpus", action="append", choices=[*CORPORA, TUNING])
    parser.add_argument("--student", action="append", choices=list(STUDENTS))
    parser.add_argument("--teacher", default="all-MiniLM-L6-v2")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, action="append", help="instead of minutes")
    parser.add_argument("--synthetic-queries", type=int, default=0)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--options", default="{}", help="further parameters of distill(), as JSON")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    bench = Bench(given)
    for student in [] if given.only_report else given.student or STUDENTS:
        for corpus, seed, steps in itertools.product(given.corpus or CORPORA, given.seed or [0], given.steps or [None]):
            bench.cell(corpus, student, seed, steps)
            print(f"{corpus}, {student}: done", flush=True)
    bench.report()


if __name__ == "__main__":
    main()
