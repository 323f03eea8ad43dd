"""One of two processes that train together, for the tests; imported, the same work for a process alone."""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

from helpers.tiny_models import sentences
from helpers.tiny_runs import corpus, finetuning, settings
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.dev_metric import neighbour_dev
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training import optimizer as optimising
from ibkd_retrieval.distill.training.loop import StageRun
from ibkd_retrieval.distill.training.stage1 import train_student
from ibkd_retrieval.distill.training.stage2 import finetune_student
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import student_from_layers

OBJECTIVES = ("ibkd", "infonce", "mse")
STEPS = 8
# Odd, so that the processes have shares of different sizes.
RECIPE = {"steps": STEPS, "batch_size": 15, "bank_size": 20, "eval_every": 3, "checkpoint_every": 3}


class Stopped(Exception):
    """A run is ended in the middle."""


class Recorder:
    """The whole gradient of each run's first step, and the losses of all its steps."""

    def __init__(self):
        self.gradients, self.losses = {}, {}

    def during(self, name, stop_after=None):
        """Watch the gradients that are applied while the run `name` goes on."""
        apply, losses = optimising.apply_gradients, self.losses.setdefault(name, [])

        def applied(optimizer, batches):
            if len(losses) == stop_after:
                raise Stopped
            if not losses:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                for number, parameter in enumerate(parameters):
                    if parameter.grad is not None:
                        self.gradients[f"{name}.{number}"] = parameter.grad.clone()
            figures = apply(optimizer, batches)
            losses.append(figures["loss"])
            return figures

        return mock.patch.object(optimising, "apply_gradients", applied)


def work(folder: Path, model: str) -> Recorder:
    """Train with each objective, be interrupted and resume, fine-tune."""
    recorder = Recorder()
    teacher = Encoder.load(model, device="cpu", dtype="float32")
    dev = neighbour_dev(tuple(sentences(150)), teacher, size=30, seed=0)
    held_out = set(dev.texts)
    rest = [text for text in sentences(150) if text not in held_out]
    texts = TrainingTexts(tuple(rest[:100]), tuple(rest[100:]))
    with ranks.in_turn():
        cache = TeacherCache(folder / "cache", teacher)

    def initial():
        return student_from_layers(load_sentence_transformer(model), 1)

    def train(name, *, stop_after=None, resume=False, **changed):
        with recorder.during(name, stop_after):
            arguments = (
                initial(),
                cache,
                texts,
                dev,
                settings(**(RECIPE | changed)),
                StageRun(folder / name.split(" ")[0], "initial", resume),
            )
            return train_student(*arguments)

    for objective in OBJECTIVES:
        train(objective, objective=objective)
    train("accumulated", accumulate=2, patience=2)
    try:
        train("resumed part", stop_after=5)
    except Stopped:
        train("resumed rest", resume=True)
    pairs = PairSet("pairs", tuple(TrainingPair(" ".join(text.split()[:3]), (text,)) for text in rest[:60]))
    recipe = finetuning(steps=3, batch_size=7, soft_labels="teacher", eval_every=0, checkpoint_every=3)
    with recorder.during("finetuned"):
        finetune_student(initial(), cache, pairs, corpus(), dev, recipe, StageRun(folder / "finetuned", "initial"))
    return recorder


if __name__ == "__main__":
    import torch.distributed as dist

    rank, root = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    ranks.connect(dist.FileStore(str(root / "store"), 2), rank, 2)
    found = work(root / "together", sys.argv[3])
    save_file(found.gradients, root / f"gradients-{rank}.safetensors")
    (root / f"losses-{rank}.json").write_text(json.dumps(found.losses))
    ranks.leave()
