"""Tiny distillation runs, for tests and for the processes they kill."""

import sys
from dataclasses import replace
from pathlib import Path

from helpers.tiny_models import sentences
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.distill.config import FINETUNE_PREFIXED, DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.pipeline import distill_student
from ibkd_retrieval.distill.preparing import Job
from ibkd_retrieval.distill.sections import DataConfig, StudentConfig


def corpus(count: int = 150) -> Corpus:
    documents = [Document(f"d{i}", text) for i, text in enumerate(sentences(count))]
    return Corpus("tiny", count, lambda: documents)


def settings(**changed) -> DistillConfig:
    """The settings of a tiny run of stage 1, whatever the student."""
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
        "objective": "ibkd",
        "regression_weight": 0.0,
        "merge": 0.0,
        "freeze_embeddings": False,
        "dim": 0,
    }
    return decided(DistillConfig().with_parameters(**(values | changed)))


def finetuning(**changed) -> DistillConfig:
    """The settings of a tiny run of stage 2; steps, batch size, rate, temperature and HSIC weight are its own."""
    values = {
        "stage": "finetune",
        "steps": 12,
        "batch_size": 8,
        "negatives": 1,
        "learning_rate": 1e-3,
        "max_length": 24,
        "dtype": "float32",
        "negative_ranks": (5, 60),
        "negative_margin": 0.0,
        "eval_every": 6,
        "checkpoint_every": 4,
        "freeze_embeddings": False,
        "dim": 0,
    }
    if changed.get("negatives") == 0:
        del values["negative_ranks"], values["negative_margin"]
    given = {f"finetune_{k}" if k in FINETUNE_PREFIXED else k: v for k, v in (values | changed).items()}
    return decided(DistillConfig().with_parameters(**given))


def run(teacher: Path, root: Path, *, output: str = "student", plan: StudentConfig | None = None, **options):
    """Distil `plan`; `settings` are those of stage 1 and of both, `finetuning` those of stage 2."""
    config = options.pop("settings", None) or settings()
    tuned = options.pop("finetuning", None) or finetuning()
    teachers = (str(teacher), *options.pop("further_teachers", ()))
    student = replace(config.student, **vars(plan or StudentConfig(layers=2, dim=8)))
    kept = {name: getattr(config.student, name) for name in ("dims", "freeze_embeddings", "output_space")}
    student = replace(student, dim=student.dim or 0, **kept)
    job = Job(
        config=replace(
            config,
            teacher=teachers,
            stage=options.pop("stage", "distill"),
            student=student,
            data=DataConfig(max_documents=options.pop("max_documents", None)),
            finetuning=tuned.finetuning,
        ),
        **({"corpus": corpus(), "queries": None} | options),
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
