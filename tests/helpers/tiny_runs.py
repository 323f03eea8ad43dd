"""Tiny distillation runs, for tests and for the processes they kill."""

import sys
from pathlib import Path

from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.distill.pipeline import Job, distill_student
from ibkd_retrieval.distill.recipe import DistillSettings, FinetuneSettings, MiningSettings, StudentPlan


def corpus(count: int = 150) -> Corpus:
    documents = [Document(f"d{i}", text) for i, text in enumerate(sentences(count))]
    return Corpus("tiny", count, lambda: documents)


def settings(**changed) -> DistillSettings:
    values = {
        "steps": 12,
        "batch_size": 16,
        "bank_size": 24,
        "max_length": 24,
        "learning_rate": 3e-4,
        "projection_learning_rate": 1e-3,
        "dtype": "float32",
        "eval_every": 6,
        "checkpoint_every": 4,
    }
    return DistillSettings(**(values | changed))


def finetuning(**changed) -> FinetuneSettings:
    values = {
        "steps": 12,
        "batch_size": 8,
        "negatives": 1,
        "learning_rate": 1e-3,
        "max_length": 24,
        "dtype": "float32",
        "mining": MiningSettings(5, 60, 0.0),
        "eval_every": 6,
        "checkpoint_every": 4,
    }
    return FinetuneSettings(**(values | changed))


def run(teacher: Path, root: Path, *, output: str = "student", plan: StudentPlan | None = None, **options):
    changed = options.pop("settings", settings())
    job = Job(
        teacher_name=str(teacher),
        plan=plan or StudentPlan(layers=2, dim=8),
        **({"corpus": corpus(), "queries": None} | options),
        settings=changed,
        output=root / output,
        cache_root=root / "cache",
        device="cpu",
    )
    return distill_student(job)


if __name__ == "__main__":
    # Killed from within, at once and without clean-up, before the step named last.
    import os
    import signal

    import torch

    from ibkd_retrieval.distill.training import stage1 as train

    torch.set_num_threads(1)
    step = train.TrainingRun.step

    def fatal(self, number, *, detailed):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, detailed=detailed)

    train.TrainingRun.step = fatal
    run(Path(sys.argv[1]), Path(sys.argv[2]))
