"""A batch in chunks trains as a whole batch does, in less memory."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.programs import environment
from helpers.tiny_models import save_sentence_transformer, sentences
from helpers.tiny_runs import finetuning, settings
from ibkd_retrieval.distill.data.batches import PairTexts
from ibkd_retrieval.distill.data.pairs import TrainingPair
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.dev_metric import neighbour_dev
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training import chunks
from ibkd_retrieval.distill.training.checkpoint import list_checkpoints
from ibkd_retrieval.distill.training.chunks import ChunkedStudent, ChunkPlan, fixed_bytes, graph_bytes, plan_chunks
from ibkd_retrieval.distill.training.loop import StageRun
from ibkd_retrieval.distill.training.stage1 import TrainingRun, train_student
from ibkd_retrieval.distill.training.stage2 import FinetuneRun
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import student_from_layers
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT

TEXTS = TrainingTexts(tuple(sentences(120)), tuple(sentences(20, seed=5)))
PLANS = {"nothing kept": ChunkPlan(60, 0), "some kept": ChunkPlan(60, 150), "all kept": ChunkPlan(60, 10_000)}


def stage1(bert, cache, plan=None, **changed):
    student = student_from_layers(load_sentence_transformer(str(bert)), 2)
    run = TrainingRun(student, cache, TEXTS, settings(**changed), SILENT)
    run.start()
    return split(run, plan)


def stage2(bert, plan=None, **changed):
    texts = sentences(90)
    pairs = [TrainingPair(texts[i], (texts[30 + i],), (texts[60 + i],)) for i in range(30)]
    run = FinetuneRun(load_sentence_transformer(str(bert)), PairTexts(pairs), finetuning(**changed), None, SILENT)
    return split(run, plan)


def split(run, plan):
    if plan is not None:
        run.student = ChunkedStudent(run.module, run.token_ids, plan)
    return run


def gradients(run):
    figures = run.step(0, detailed=True)
    modules = torch.nn.ModuleDict(run.modules)
    return figures, {name: p.grad.clone() for name, p in modules.named_parameters() if p.grad is not None}


def same(whole, chunked):
    (figures, wanted), (others, found) = gradients(whole), gradients(chunked)
    assert others["loss"] == pytest.approx(figures["loss"], rel=1e-5)
    assert others["hsic_gradient"] == pytest.approx(figures["hsic_gradient"], rel=1e-3)
    assert list(found) == list(wanted)
    # Some gradients are zero but for rounding, such as those of the keys' biases.
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6 * scale), name


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_distilling_in_chunks_has_the_gradients_of_the_whole_batch(tmp_path, bert, teacher, plan):
    cache = TeacherCache(tmp_path / "cache", teacher)
    terms = {"objective": "ibkd", "hsic_weight": 1.0}
    same(stage1(bert, cache, **terms), stage1(bert, cache, plan, **terms))
    accumulated = terms | {"accumulate": 2}
    same(stage1(bert, cache, **accumulated), stage1(bert, cache, plan, **accumulated))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_fine_tuning_in_chunks_has_the_gradients_of_the_whole_batch(bert, plan):
    same(stage2(bert), stage2(bert, plan))


@pytest.mark.parametrize("plan", [None, *PLANS.values()], ids=["whole", *PLANS])
def test_half_precision_stays_in_the_transformer(tmp_path, bert, teacher, plan):
    run = stage1(bert, TeacherCache(tmp_path / "cache", teacher), plan, dtype="bfloat16", dim=8)
    encoded = run.student.encode(np.arange(32))
    assert encoded.vectors.dtype == encoded.inputs.dtype == torch.float32
    figures, found = gradients(run)
    assert np.isfinite(figures["loss"])
    assert all(bool(gradient.abs().sum() > 0) for name, gradient in found.items() if "word_embeddings" in name)
    assert any("word_embeddings" in name for name in found)


def test_the_untrained_student_gives_the_same_vectors_in_chunks(tmp_path, bert, teacher):
    run = stage1(bert, TeacherCache(tmp_path / "cache", teacher))
    positions = torch.randperm(len(TEXTS)).numpy()
    whole = run.student.vectors(positions)
    assert split(run, ChunkPlan(60, 0)).student.vectors(positions) == pytest.approx(whole, abs=1e-6)


def limit(bert, cache, free):
    """A memory limit that leaves so many bytes for intermediate results."""
    run = stage1(bert, cache)
    scores = 16 * (16 + 24)
    return free + fixed_bytes(run.modules.values(), cache.teacher, TEXTS, run.token_ids, scores)


def test_chunks_follow_from_the_memory(tmp_path, bert, teacher):
    cache = TeacherCache(tmp_path / "cache", teacher)
    run = stage1(bert, cache)
    a_text = graph_bytes(run.module, run.token_ids) * run.token_ids.lengths.max()
    assert stage1(bert, cache, memory=limit(bert, cache, int(40 * a_text))).student.plan.tokens is None
    plan = stage1(bert, cache, memory=limit(bert, cache, int(10 * a_text))).student.plan
    assert 0 < plan.tokens < 16 * run.token_ids.lengths.max()
    with pytest.raises(UserError, match=r"`memory=0MB` is too little.* give at least"):
        plan_chunks(run.module, run.token_ids, 16, 1000, 10**9)
    # What is not asked for is no reason to stop.
    assert plan_chunks(run.module, run.token_ids, 10**6, None, 10**10).tokens > 0


def test_a_run_in_chunks_resumes_bit_for_bit(tmp_path, bert, teacher, monkeypatch):
    cache = TeacherCache(tmp_path / "cache", teacher)
    memory = limit(bert, cache, int(8 * graph_of(bert, cache)))
    dev = neighbour_dev(tuple(sentences(120, seed=9)), teacher, size=20, seed=0)

    def train(name, resume=False):
        student = student_from_layers(load_sentence_transformer(str(bert)), 2)
        recipe = settings(memory=memory)
        train_student(student, cache, TEXTS, dev, recipe, StageRun(tmp_path / name, "two layers", resume))
        return student.state_dict()

    wanted = train("whole")
    step = TrainingRun.step

    def ends(self, number, *, detailed):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number, detailed=detailed)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "step", ends)
        with pytest.raises(KeyboardInterrupt):
            train("halves")
    assert len(list_checkpoints(tmp_path / "halves")) == 1
    found = train("halves", resume=True)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def graph_of(bert, cache):
    run = stage1(bert, cache)
    return graph_bytes(run.module, run.token_ids) * run.token_ids.lengths.max()


def test_freed_memory_is_given_back_near_the_limit_and_not_in_every_step(tmp_path, bert, teacher, monkeypatch):
    run = stage1(bert, TeacherCache(tmp_path / "cache", teacher))
    given = []
    monkeypatch.setattr(chunks, "give_freed_memory_back", lambda: given.append(1))
    for memory, times in ((None, 0), (10**15, 0), (10**6, 1)):
        split(run, ChunkPlan(60, 150, memory))
        for step in range(3):
            run.step(step, detailed=False)
        assert len(given) == times


PROGRAM = """
import sys
from pathlib import Path
import numpy as np, torch
from helpers.tiny_models import sentences
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training.stage1 import TrainingRun
from ibkd_retrieval.encoders.device import keep_freed_memory
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.indexing.building.memory import peak_memory_bytes
from ibkd_retrieval.progress import SILENT
torch.set_num_threads(1)
keep_freed_memory()
model, folder, memory = sys.argv[1:]
texts = TrainingTexts(tuple(sentences(520, longest=90)), ())
teacher = TeacherCache(Path(folder), Encoder.load(model, device="cpu", dtype="float32"))
given = {"batch_size": 512, "max_length": 64, "learning_rate": 1e-4, "dtype": "float32", "memory": memory}
recipe = decided(DistillConfig().with_parameters(**given))
run = TrainingRun(load_sentence_transformer(model), teacher, texts, recipe, SILENT)
run.step(0, detailed=False)
print(peak_memory_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the program's own size is known on Linux")
def test_the_peak_of_a_process_keeps_within_the_memory(tmp_path):
    model = save_sentence_transformer(tmp_path / "model", hidden=64)

    def peak(memory):
        program = [sys.executable, "-c", PROGRAM, str(model), str(tmp_path / "cache")]
        done = subprocess.run([*program, memory], capture_output=True, text=True, env=environment(), timeout=900)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    assert peak("1100MB") < 1.1e9 < peak("100GB")


class Waits(TorchDispatchMode):
    """Counts operations at which a processor waits for a GPU: their result is a number, or its size depends on data."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket.__name__
        masks = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.NAMES or any(each is not None and each.dtype == torch.bool for each in masks):
            self.count[name] += 1
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize(("stage", "passes"), [(1, 1), (2, 2)])
def test_a_step_does_not_wait_for_a_gpu_but_for_its_figures_at_the_end(tmp_path, bert, teacher, stage, passes):
    run = stage1(bert, TeacherCache(tmp_path / "cache", teacher)) if stage == 1 else stage2(bert)
    run.step(0, detailed=False)
    with Waits() as waits:
        run.step(1, detailed=False)
    # In each forward pass, transformers asks whether anything is padded.
    assert waits.count.pop("_local_scalar_dense", 0) <= passes
    assert not waits.count
