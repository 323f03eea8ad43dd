"""How well agreement with a first system, and a model's opinion, rank systems as judgements do.

usage: python benchmarks/judge_agreement.py --data-dir DIR --models-dir DIR --work-dir DIR [--queries 40]

Below --data-dir lie BEIR folders. Of each collection some judged queries are drawn, and some documents: all that are
judged relevant for these queries, and others at random. Eleven systems of different quality answer by exact search. The
first is the reference of overlap@10 and rank-biased overlap (rbo). The other ten are ranked by each figure and by
nDCG@10. Kendall's tau compares the two orders: 1 is the same order, 0 is no relation. Vectors are kept in the work
folder. Each collection is written into benchmarks/results/judge_agreement.json, which keeps the others that are
there. The extra `bm25` is needed.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy.stats import kendalltau

from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.encoders.cross_encoder import load_pair_scorer
from ibkd_retrieval.encoders.device import read_environment
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.evaluation.agreement import agreement_with
from ibkd_retrieval.evaluation.judge import OPINION, Judge, judge_runs, open_judge
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.files import write_json
from ibkd_retrieval.search.runs import Run
from ibkd_retrieval.search.runs.fusion import reciprocal_rank_fusion

COLLECTIONS = (("scifact", "train"), ("nfcorpus", "dev"), ("cranfield", "test"), ("vaswani", "test"))
FIRST = "all-MiniLM-L6-v2"
MODELS = (FIRST, "paraphrase-MiniLM-L3-v2", "bert-tiny")
CUTS = {FIRST: (192, 64, 24), "paraphrase-MiniLM-L3-v2": (96,)}
JUDGES = {"cross-encoder": "ms-marco-MiniLM-L-12-v2-dequantised", "encoder": "bge-small-en-v1.5-dequantised"}
MAX_LENGTH = 96
DEPTH = 100
METRIC = "ndcg@10"


class Sample:
    """Some judged queries of a collection, with documents that are enough to rank systems by."""

    def __init__(self, folder: Path, split: str, queries: int, documents: int) -> None:
        draw = random.Random(0)
        asked = open_queries(f"{folder}:{split}", need_judgements=True)
        relevant: dict[str, list[str]] = {}
        for judgement in asked.judgements:
            if judgement.relevance > 0:
                relevant.setdefault(judgement.query_id, []).append(judgement.doc_id)
        chosen = sorted(draw.sample(sorted(relevant), min(queries, len(relevant))))
        self.name = folder.name
        self.split = split
        self.queries = [query for query in asked.queries if query.query_id in set(chosen)]
        everything = list(open_corpus(str(folder)).documents())
        wanted = {doc_id for query_id in chosen for doc_id in relevant[query_id]}
        others = [each for each in everything if each.doc_id not in wanted]
        draw.shuffle(others)
        kept = [each for each in everything if each.doc_id in wanted] + others[: max(0, documents - len(wanted))]
        self.documents = sorted(kept)
        held = {each.doc_id for each in self.documents}
        self.judgements = tuple(
            each for each in asked.judgements if each.query_id in set(chosen) and each.doc_id in held
        )

    @property
    def digest(self) -> str:
        """What tells samples apart in the work folder."""
        ids = [*(each.doc_id for each in self.documents), *(each.query_id for each in self.queries)]
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]


def vectors(sample: Sample, folder: Path, work: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of queries and documents by one model, encoded once."""
    kept = work / f"{sample.name}-{sample.digest}-{folder.name}-{MAX_LENGTH}.npz"
    if not kept.exists():
        encoder = Encoder.load(str(folder), max_length=MAX_LENGTH)
        queries = encoder.encode([query.text for query in sample.queries], "query")
        np.savez(kept, queries=queries, documents=encoder.encode([each.content for each in sample.documents]))
    with np.load(kept) as found:
        return found["queries"], found["documents"]


def dense(sample: Sample, name: str, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Run:
    """The best documents by the cosine of vectors."""
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, documents)]
    return run_of(sample, name, unit[0] @ unit[1].T)


def run_of(sample: Sample, name: str, scores: NDArray[np.float32]) -> Run:
    """The best documents by a matrix of scores [queries, documents]."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    ids = [[sample.documents[place].doc_id for place in row] for row in best]
    values = [scores[row, places].astype(np.float64) for row, places in enumerate(best)]
    return Run.from_lists([query.query_id for query in sample.queries], ids, values, name)


def lexical(sample: Sample) -> Run:
    """BM25 with Anserini's parameters."""
    stem = Stemmer.Stemmer("english")
    engine = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    texts = [each.content for each in sample.documents]
    engine.index(bm25s.tokenize(texts, stopwords="en", stemmer=stem, show_progress=False), show_progress=False)
    asked = bm25s.tokenize(
        [query.text for query in sample.queries], stopwords="en", stemmer=stem, show_progress=False, return_ids=False
    )
    return run_of(sample, "BM25", np.stack([engine.get_scores(words) for words in asked]))


def word_vectors(sample: Sample, folder: Path) -> Run:
    """A static model: each text is the mean of the token vectors of a model's input table, without its layers."""
    encoder = Encoder.load(str(folder), max_length=MAX_LENGTH, dtype="float32")
    table = encoder._model[0].auto_model.get_input_embeddings().weight.detach().float().numpy()
    table = table - table.mean(axis=0)
    read = encoder._model.tokenizer

    def encode(texts: list[str]) -> NDArray[np.float32]:
        ids = [read.encode(text, add_special_tokens=False, truncation=True, max_length=MAX_LENGTH) for text in texts]
        return np.stack([table[each].mean(axis=0) if each else table[0] for each in ids])

    queries = encode([query.text for query in sample.queries])
    return dense(sample, "static", queries, encode([each.content for each in sample.documents]))


def systems(sample: Sample, models: Path, work: Path) -> dict[str, Run]:
    """The runs of all systems, the reference first."""
    runs: dict[str, Run] = {}
    for name in MODELS:
        queries, documents = vectors(sample, models / name, work)
        runs[name] = dense(sample, name, queries, documents)
        for dim in CUTS.get(name, ()):
            cut = f"{name}, {dim} dimensions"
            runs[cut] = dense(sample, cut, queries[:, :dim], documents[:, :dim])
    runs["static"] = word_vectors(sample, models / FIRST)
    runs["BM25"] = lexical(sample)
    for name in MODELS[:2]:
        runs[f"{name} + BM25"] = reciprocal_rank_fusion([runs[name], runs["BM25"]]).first(DEPTH)
    return runs


def measured(sample: Sample, runs: dict[str, Run], judges: dict[str, Judge]) -> dict[str, Any]:
    """Every system's figures, and how well each figure orders the systems as nDCG@10 does."""
    texts = {each.doc_id: each.content for each in sample.documents}
    first = next(iter(runs.values()))
    figures: dict[str, dict[str, float]] = {
        name: {
            METRIC: evaluate_run(run, sample.judgements, [METRIC]).scores[METRIC],
            **agreement_with(run, first, run, first, name).scores,
        }
        for name, run in runs.items()
    }
    seconds = {}
    for kind, judge in judges.items():
        start = time.perf_counter()
        asked = {query.query_id: query.text for query in sample.queries}
        for name, found in judge_runs(judge, asked, runs, texts.__getitem__).items():
            figures[name][f"{OPINION} {kind}"] = found.scores[OPINION]
        seconds[kind] = round(time.perf_counter() - start, 1)
    others = list(figures)[1:]
    true = [figures[name][METRIC] for name in others]
    return {
        "queries": len(sample.queries),
        "documents": len(sample.documents),
        "split": sample.split,
        "systems": figures,
        "kendall_tau": {
            figure: round(float(kendalltau(true, [figures[name][figure] for name in others]).statistic), 3)
            for figure in list(figures[others[0]])[1:]
        },
        "judge_seconds": seconds,
    }


def main() -> None:
    """Measure every collection, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data-dir", "models-dir", "work-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/judge_agreement.json"))
    parser.add_argument("--collections", nargs="*", default=[name for name, _ in COLLECTIONS])
    given = parser.parse_args()
    given.work_dir.mkdir(parents=True, exist_ok=True)
    scorer = load_pair_scorer(
        str(given.models_dir / JUDGES["cross-encoder"]), max_length=MAX_LENGTH + 32, dtype="bfloat16"
    )
    encoder = Encoder.load(str(given.models_dir / JUDGES["encoder"]), max_length=MAX_LENGTH)
    judges = {"cross-encoder": open_judge(scorer), "encoder": open_judge(encoder)}
    for name, split in COLLECTIONS:
        if name not in given.collections:
            continue
        begin = time.process_time()
        sample = Sample(given.data_dir / name, split, given.queries, given.documents)
        found = measured(sample, systems(sample, given.models_dir, given.work_dir), judges)
        found["cpu_seconds"] = round(time.process_time() - begin)
        before = json.loads(given.output.read_text())["collections"] if given.output.exists() else {}
        print(name, found["kendall_tau"], f"{found['cpu_seconds']} s of processor time", flush=True)
        write_json(
            given.output,
            {
                "date": datetime.date.today().isoformat(),
                "environment": read_environment().__dict__,
                "first": FIRST,
                "judges": JUDGES,
                "max_length": MAX_LENGTH,
                "collections": {
                    each: (before | {name: found})[each] for each, _ in COLLECTIONS if each in {*before, name}
                },
            },
        )


if __name__ == "__main__":
    main()
