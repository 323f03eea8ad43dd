import json

import numpy as np
import pytest
import torch

from helpers.tiny_models import save_sentence_transformer, sentences
from helpers.tiny_runs import settings
from ibkd_retrieval.distill.data.batches import training_tokens
from ibkd_retrieval.distill.data.texts import TrainingTexts
from ibkd_retrieval.distill.dev_metric import neighbour_dev
from ibkd_retrieval.distill.objectives import OBJECTIVES
from ibkd_retrieval.distill.objectives.base import LossTerms
from ibkd_retrieval.distill.objectives.projection import nearest_isometry
from ibkd_retrieval.distill.student import finished_model
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.training import stage1 as train
from ibkd_retrieval.distill.training.checkpoint import list_checkpoints
from ibkd_retrieval.distill.training.loop import StageRun
from ibkd_retrieval.distill.training.stage1 import train_student
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.encoders.students import add_output_layer, student_from_layers
from ibkd_retrieval.encoders.tokens import tokenize
from ibkd_retrieval.errors import MissingPackage, UserError, WorkFailed
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(150)


class Bench:
    """One toy problem, trained as often as a test likes."""

    def __init__(self, folder, bert, teacher):
        self.folder, self.bert, self.teacher = folder, bert, teacher
        self.dev = neighbour_dev(tuple(TEXTS), teacher, size=30, seed=0)
        rest = [text for text in TEXTS if text not in self.dev.texts]
        self.texts = TrainingTexts(tuple(rest[:100]), tuple(rest[100:]))

    def student(self):
        return student_from_layers(load_sentence_transformer(str(self.bert)), 1)

    def train(
        self, name="run", student=None, *, resume=False, origin="one layer", cache=None, tensorboard=None, **changed
    ):
        student = student or self.student()
        cache = cache or TeacherCache(self.folder / "cache", self.teacher)
        result = train_student(
            student,
            cache,
            self.texts,
            self.dev,
            settings(**changed),
            StageRun(self.folder / name, origin, resume, tensorboard),
        )
        return result, {key: value.clone() for key, value in student.state_dict().items()}


@pytest.fixture
def bench(tmp_path, bert, teacher):
    return Bench(tmp_path, bert, teacher)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def student_with(student, weights):
    student.load_state_dict(weights)
    return student


def fail_at(monkeypatch, number, error):
    step = train.TrainingRun.step

    def failing(self, at, *, detailed):
        if at == number:
            raise error
        return step(self, at, detailed=detailed)

    monkeypatch.setattr(train.TrainingRun, "step", failing)


def logged(folder):
    return [json.loads(line) for line in (folder / "training-log.jsonl").read_text().splitlines()]


def test_equal_seeds_give_equal_weights_and_another_seed_gives_others(bench):
    (first, weights), (second, again), (_, other) = bench.train("a"), bench.train("b"), bench.train("c", seed=1)
    assert same(weights, again)
    assert not same(weights, other)
    np.testing.assert_array_equal(first.projection, second.projection)


@pytest.mark.parametrize("died_at", [2, 5, 11])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), WorkFailed("out of memory")])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(bench, monkeypatch, died_at, error):
    whole, weights = bench.train("whole")
    with monkeypatch.context() as patch:
        fail_at(patch, died_at, error)
        with pytest.raises(type(error)):
            bench.train("broken")
    result, resumed = bench.train("broken", resume=True)
    assert same(weights, resumed)
    np.testing.assert_array_equal(whole.projection, result.projection)
    assert whole.history == result.history

    def told(name):
        clocks = ("texts_per_second", "ms_", "student_share")
        return [{k: v for k, v in line.items() if not k.startswith(clocks)} for line in logged(bench.folder / name)]

    assert told("broken") == told("whole")


def test_a_run_does_not_depend_on_what_its_cache_held_before(bench, teacher):
    _, weights = bench.train("a")
    full = TeacherCache(bench.folder / "other-cache", teacher)
    full.rows(sentences(40, seed=8) + TEXTS[::-3])
    _, again = bench.train("b", cache=full)
    for key, value in weights.items():
        torch.testing.assert_close(value, again[key], atol=2e-3, rtol=1e-2)
    runs = [
        train.TrainingRun(bench.student(), cache, bench.texts, settings(), SILENT)
        for cache in (full, TeacherCache(bench.folder / "cache", teacher))
    ]
    drawn = [run.cache.vectors(run.bank_rows[run.schedule.bank(3, 9, len(run.bank_rows))]) for run in runs]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-3)


def test_training_lowers_the_loss_and_raises_the_dev_figure(bench):
    result, _ = bench.train(steps=60, learning_rate=3e-3, eval_every=0, checkpoint_every=100)
    lines = [line for line in logged(bench.folder / "run") if "loss" in line]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["bound"] > lines[0]["bound"]
    assert result.history[-1].value > result.history[0].value
    assert [point.step for point in result.history] == [0, 60]


def test_the_log_says_where_the_time_of_a_step_goes(bench):
    from ibkd_retrieval.distill.training.log import STEP

    bench.train(steps=12)
    timed = [line for line in logged(bench.folder / "run") if "ms_student" in line]
    assert len(timed) == 3, "steps 0 and 10 and the last"
    for line in timed:
        parts = [line[f"ms_{name}"] for name in STEP]
        assert min(parts) > 0
        assert line["ms_hsic"] > 0
        assert line["student_share"] == pytest.approx(line["ms_student"] / sum(parts))


def test_the_log_shows_what_the_forgetting_term_sees(bench):
    bench.train()
    first = next(line for line in logged(bench.folder / "run") if "loss" in line)
    assert {"keep", "bound", "hsic", "kernel_x", "kernel_s", "hsic_gradient", "gradient", "learning_rate"} <= set(first)
    assert first["hsic_gradient"] > 0
    assert 0.1 < first["kernel_s"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("bank_size", [0, 24])
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "ibkd"])
def test_the_other_objectives_train_too(bench, objective, bank_size):
    student = bench.student()
    if objective == "hpd":
        add_output_layer(student)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    result, weights = bench.train(student=student, objective=objective, steps=30, bank_size=bank_size)
    assert (result.projection is None) == (objective == "crd")
    assert not same(weights, before)
    losses = [line["loss"] for line in logged(bench.folder / "run") if "loss" in line]
    assert losses[-1] < losses[0]


def test_a_student_of_several_lengths_resumes_to_the_weights_of_an_uninterrupted_one(bench, monkeypatch):
    def student():
        initial = bench.student()
        add_output_layer(initial)
        return initial

    whole, weights = bench.train("whole", student(), dims=(32, 8))
    with monkeypatch.context() as patch:
        fail_at(patch, 6, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train("broken", student(), dims=(32, 8))
    result, resumed = bench.train("broken", student(), dims=(32, 8), resume=True)
    assert same(weights, resumed)
    assert whole.history == result.history
    assert {"loss@8", "keep"} <= set(logged(bench.folder / "whole")[1])


def test_the_projection_starts_as_the_least_squares_map(bench, teacher):
    run = train.TrainingRun(
        bench.student(), TeacherCache(bench.folder / "cache", teacher), bench.texts, settings(), SILENT
    )
    run.start()
    x = run.untrained().encode([*bench.texts.documents, *bench.texts.queries]).astype(np.float64)
    y = run.cache.vectors(run.rows).astype(np.float64)
    residual = x @ run.objective.projection.weight.detach().numpy().T - y
    best = x @ np.linalg.lstsq(x, y, rcond=None)[0] - y
    assert (best**2).sum() <= (residual**2).sum() < 1.2 * (best**2).sum() + 1e-3 * len(x)


@pytest.mark.parametrize("dims", [(), (32, 8)])
def test_an_isometry_leaves_the_students_cosines_as_they_were_and_is_not_trained(bench, teacher, dims):
    student = bench.student()
    if dims:
        add_output_layer(student)
    given = settings(projection="isometry", dims=dims)
    run = train.TrainingRun(student, TeacherCache(bench.folder / "cache", teacher), bench.texts, given, SILENT)
    run.start()
    texts = list(bench.texts.documents)
    before, after = run.untrained().encode(texts), run.snapshot().encode(texts)
    started = run.projection()
    np.testing.assert_allclose(started.T @ started, np.eye(32), atol=1e-5)
    assert np.abs(after @ after.T - before @ before.T).max() < 1e-4 or dims, "only lengths need another basis"
    for number in range(3):
        run.step(number, detailed=False)
    assert (run.projection() == started).all()
    moved = run.snapshot().encode(texts)
    assert np.abs(moved @ moved.T - before @ before.T).max() > 1e-3, "the student itself is trained"


def test_a_student_of_several_lengths_that_keeps_its_cosines_starts_where_prefixes_hold_most_of_it(bench, teacher):
    student = bench.student()
    add_output_layer(student)
    given = settings(projection="isometry", dims=(32, 8))
    run = train.TrainingRun(student, TeacherCache(bench.folder / "cache", teacher), bench.texts, given, SILENT)
    texts = [*bench.texts.documents, *bench.texts.queries]
    before = run.untrained().encode(texts)
    run.start()
    started = run.untrained().encode(texts)
    np.testing.assert_allclose(started @ started.T, before @ before.T, atol=1e-4)
    held = (np.square(started).mean(0), np.square(before).mean(0))
    best = np.linalg.eigvalsh(before.T @ before / len(before))[::-1]
    np.testing.assert_allclose(held[0], best, atol=1e-5)
    assert held[0][:8].sum() > held[1][:8].sum()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"dims": (32, 8)}, {"patience": 3, "eval_every": 3}])
def test_merging_gives_the_mean_of_the_weights_before_and_after(bench, teacher, monkeypatch, more):
    def student():
        initial = bench.student()
        add_output_layer(initial)
        return initial

    run = train.TrainingRun(
        student(), TeacherCache(bench.folder / "cache", teacher), bench.texts, settings(**more), SILENT
    )
    run.start()
    before, projection = run.module.model.state_dict(), run.projection()
    plain, trained = bench.train("plain", student(), **more)
    merged, weights = bench.train("merged", student(), merge=0.25, **more)
    if "patience" not in more:  # Which looks at merged weights, and may prefer another step's.
        assert not same(trained, weights)
        for name, found in weights.items():
            torch.testing.assert_close(found, 0.75 * trained[name] + 0.25 * before[name], atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(merged.projection, 0.75 * plain.projection + 0.25 * projection, atol=1e-6)
    finished = finished_model(student_with(student(), weights), merged.projection, settings(**more)).model
    assert merged.dev == pytest.approx(bench.dev.score(Encoder(finished, "finished", dtype="float32")), abs=1e-9)
    with monkeypatch.context() as patch:
        fail_at(patch, 7, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train("broken", student(), merge=0.25, **more)
    result, resumed = bench.train("broken", student(), merge=0.25, resume=True, **more)
    assert same(weights, resumed)
    assert result.history == merged.history


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_of_either_is_refused(share):
    with pytest.raises(UserError, match="`merge`"):
        settings(merge=share)


def test_the_nearest_isometry_keeps_cosines_and_finds_a_rotation_that_was_there():
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(9, 5)))[0]
    x = generator.normal(size=(40, 5)).astype(np.float32)
    found = nearest_isometry(x, (x @ rotation.T).astype(np.float32))
    np.testing.assert_allclose(found, rotation, atol=1e-5)
    noisy = (x @ rotation.T + generator.normal(size=(40, 9))).astype(np.float32)
    best = nearest_isometry(x, noisy)
    np.testing.assert_allclose(best.T @ best, np.eye(5), atol=1e-12)
    others = [np.linalg.qr(generator.normal(size=(9, 5)))[0] for _ in range(50)]
    assert all(
        np.square(x @ best.T - noisy).sum() <= np.square(x @ each.T - noisy).sum() for each in [*others, rotation]
    )
    with pytest.raises(ValueError, match="no isometry"):
        nearest_isometry(noisy, x)


def test_other_settings_texts_or_origin_are_refused_by_name_when_resuming(bench, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train()
    with pytest.raises(UserError, match=r"differs in settings\.learning_rate\)"):
        bench.train(resume=True, learning_rate=1e-4)
    with pytest.raises(UserError, match=r"differs in settings\.objective_settings\.temperature\)"):
        bench.train(resume=True, temperature=0.1)
    with pytest.raises(UserError, match=r"differs in student\)"):
        bench.train(resume=True, origin="two layers")
    texts, bench.texts = bench.texts, TrainingTexts(bench.texts.documents[1:], bench.texts.queries)
    with pytest.raises(UserError, match=r"differs in texts\)"):
        bench.train(resume=True)
    bench.texts = texts
    for state in bench.folder.rglob("state.json"):
        found = json.loads(state.read_text())
        found["identity"]["settings"]["of a later version"] = 1
        del found["sha256"]  # As in checkpoints of 0.1.0.
        state.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"differs in settings\.of a later version\)"):
        bench.train(resume=True)


def test_a_loss_that_is_no_number_names_step_and_checkpoint(bench, monkeypatch):
    from ibkd_retrieval.distill.objectives.ibkd import IBKD

    forward, calls = IBKD.forward, []

    def broken(self, batch):
        terms = forward(self, batch)
        calls.append(1)
        return LossTerms(terms.total * float("nan"), terms.terms) if len(calls) == 7 else terms

    monkeypatch.setattr(IBKD, "forward", broken)
    with pytest.raises(WorkFailed, match=r"at step 6; the last good checkpoint is .*step-0000004"):
        bench.train()


def test_a_gradient_that_is_no_number_never_reaches_weights_or_checkpoints(bench, monkeypatch):
    from ibkd_retrieval.distill.objectives.ibkd import IBKD

    forward = IBKD.forward

    def broken(self, batch):
        # The square root has no slope at 0: a finite loss with a gradient that is not.
        terms = forward(self, batch)
        return LossTerms(terms.total + (0 * batch.student).square().sum().sqrt(), terms.terms)

    monkeypatch.setattr(IBKD, "forward", broken)
    student = bench.student()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(WorkFailed, match="at step 0; no checkpoint was written yet"):
        bench.train(student=student, checkpoint_every=1)
    assert same(before, student.state_dict())
    assert list_checkpoints(bench.folder / "run") == []


def test_a_learning_rate_out_of_all_measure_fails_and_says_what_to_do(bench):
    with pytest.raises(WorkFailed, match="try a lower `learning_rate`"):
        bench.train(learning_rate=1e30, warmup=0.0)


def test_the_student_has_its_attention_back_whether_training_ends_or_breaks(bench, monkeypatch):
    student = bench.student()
    attention = student[0].auto_model.config._attn_implementation
    assert attention != "eager"
    bench.train(student=student, steps=2)
    assert student[0].auto_model.config._attn_implementation == attention
    fail_at(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.train("other", student=student)
    assert student[0].auto_model.config._attn_implementation == attention


def test_a_run_started_anew_does_not_take_old_checkpoints_for_its_own(bench, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 11, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train()
        assert [path.name for path in list_checkpoints(bench.folder / "run")] == ["step-0000004", "step-0000008"]
    with monkeypatch.context() as patch:
        fail_at(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train(seed=1)
    assert [path.name for path in list_checkpoints(bench.folder / "run")] == ["step-0000004"]


def test_fewer_texts_than_a_batch_are_refused(bench):
    with pytest.raises(UserError, match="Only 120 texts for a batch of 121"):
        bench.train(batch_size=121)


@pytest.mark.parametrize("prompts", [False, True])
def test_no_text_is_its_own_negative(bench, teacher, prompted, prompts):
    bench.texts = TrainingTexts(bench.texts.documents, bench.texts.documents[:40])
    reader = Encoder.load(str(prompted), device="cpu", dtype="float32") if prompts else teacher
    run = train.TrainingRun(
        bench.student(),
        TeacherCache(bench.folder / f"cache-{prompts}", reader),
        bench.texts,
        settings(batch_size=60, bank_size=50),
        SILENT,
    )
    positions = run.schedule.batch(0)
    batch = run._batch(0, positions, None, None, None)
    every = [*bench.texts.documents, *bench.texts.queries]
    mine = [every[position] for position in positions]
    drawn = run.bank_rows[run.schedule.bank(0, 50, len(run.bank_rows))]
    text_of = {int(row): every[i] for i, row in enumerate(run.rows)}
    candidates = mine + [text_of[int(row)] for row in drawn]
    expected = [[a == b and i != j for j, b in enumerate(candidates)] for i, a in enumerate(mine)]
    assert batch.duplicate.tolist() == expected
    assert any(any(row[:60]) for row in expected)
    assert any(any(row[60:]) for row in expected)


@pytest.mark.parametrize("objective", ["mse", "cosine", "hpd"])
def test_objectives_that_contrast_nothing_draw_no_bank(bench, teacher, objective, monkeypatch):
    asked = []
    vectors = TeacherCache.vectors
    monkeypatch.setattr(TeacherCache, "vectors", lambda cache, rows: asked.append(len(rows)) or vectors(cache, rows))
    run = train.TrainingRun(
        bench.student(),
        TeacherCache(bench.folder / "cache", teacher),
        bench.texts,
        settings(batch_size=8, bank_size=50, objective=objective),
        SILENT,
    )
    run.step(0, detailed=True)
    assert asked == [8]


def test_training_reads_the_tokens_that_encoding_reads(prompted, monkeypatch):
    monkeypatch.setattr("ibkd_retrieval.distill.data.batches._WINDOW", 7)
    student = load_sentence_transformer(str(prompted))
    texts = TrainingTexts(tuple(TEXTS[:20]), tuple(TEXTS[20:30]))
    tokens = training_tokens(student, texts, 6)
    assert student.max_seq_length == 64
    student.max_seq_length = 6
    expected = tokenize(student, TEXTS[:20], "page: ") + tokenize(student, TEXTS[20:30], "query: ")
    assert [tokens[i].tolist() for i in range(len(tokens))] == expected
    assert tokens.lengths.tolist() == [len(ids) for ids in expected]


def test_frozen_token_tables_stay_as_they_were_and_are_given_back_trainable(bench):
    student = bench.student()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    _, after = bench.train(student=student, freeze_embeddings=True)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embeddings" in name for name in changed)
    assert all(parameter.requires_grad for parameter in student.parameters())


class Scripted:
    """A dev set with the figures a test wants, one a look."""

    metric, texts = "script", ()

    def __init__(self, *figures):
        self.figures, self.seen = list(figures), []

    def score(self, encoder, searched=None):
        self.seen.append(encoder.weight_hash)
        return self.figures[len(self.seen) - 1]


FIGURES = (0.9, 0.1, 0.5, 0.4, 0.5, 0.3, 0.6)


def test_patience_ends_training_and_keeps_the_weights_of_the_best_look(bench):
    bench.dev = Scripted(*FIGURES)
    student = bench.student()
    result, _ = bench.train(student=student, steps=12, eval_every=2, patience=3)
    assert [point.value for point in result.history] == list(FIGURES[:6])
    assert result.dev == 0.5
    kept = finished_model(student, result.projection, settings()).model
    assert Encoder(kept, "kept", dtype="float32").weight_hash == bench.dev.seen[2]
    bench.dev = Scripted(*FIGURES)
    patient, _ = bench.train("patient", steps=12, eval_every=2, patience=4)
    assert [point.step for point in patient.history] == [0, 2, 4, 6, 8, 10, 12]
    assert patient.dev == 0.6


@pytest.mark.slow
@pytest.mark.parametrize("died_at", [3, 5, 9])
def test_a_resumed_run_ends_early_where_an_uninterrupted_one_does(bench, monkeypatch, died_at):
    options = {"steps": 12, "eval_every": 2, "patience": 3, "checkpoint_every": 3}
    bench.dev = Scripted(*FIGURES)
    whole, weights = bench.train("whole", **options)
    bench.dev = Scripted(*FIGURES)
    with monkeypatch.context() as patch:
        fail_at(patch, died_at, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            bench.train("broken", **options)
    bench.dev = Scripted(*FIGURES)
    bench.dev.seen = [""] * (1 + 3 * (died_at // 3) // 2)
    result, resumed = bench.train("broken", resume=True, **options)
    assert (result.history, result.dev) == (whole.history, whole.dev)
    assert same(weights, resumed)


def test_nothing_is_trained_again_after_the_last_step(bench, monkeypatch):
    whole, weights = bench.train()
    fail_at(monkeypatch, 0, AssertionError("trained again"))
    monkeypatch.setattr(bench.dev.__class__, "score", None)
    result, again = bench.train(resume=True)
    assert same(weights, again)
    assert result.history == whole.history
    np.testing.assert_array_equal(result.projection, whole.projection)


def gradients(bench, objective, batches, **changed):
    """The gradient of one step over the given batches, as the optimiser would get it."""
    run = train.TrainingRun(
        bench.student(),
        TeacherCache(bench.folder / "cache", bench.teacher),
        bench.texts,
        settings(objective=objective, bank_size=0, **changed),
        SILENT,
    )
    run.start()
    run.schedule.batch = lambda number: batches[number]
    run.optimizer.step = lambda: None
    run.step(0, detailed=False)
    return torch.cat([p.grad.flatten() for p in run.module.parameters() if p.grad is not None])


@pytest.mark.parametrize(("objective", "equal"), [("mse", True), ("cosine", True), ("infonce", False)])
def test_two_batches_a_step_are_one_of_twice_the_size_where_texts_are_not_compared(bench, objective, equal):
    texts = np.arange(16)
    one = gradients(bench, objective, [texts], batch_size=16)
    two = gradients(bench, objective, [texts[:8], texts[8:]], batch_size=8, accumulate=2)
    assert torch.allclose(one, two, atol=1e-5) == equal


def test_a_student_whose_pooling_leaves_prompts_out_is_trained_as_it_encodes(tmp_path, teacher):
    prompts = {"query": "river bank: ", "passage": "page: "}
    saved = save_sentence_transformer(tmp_path / "m", prompts=prompts, include_prompt=False)
    student = load_sentence_transformer(str(saved))
    texts = TrainingTexts(tuple(TEXTS[:20]), tuple(TEXTS[20:40]))
    run = train.TrainingRun(student, TeacherCache(tmp_path / "c", teacher), texts, settings(), SILENT)
    found = run._student_vectors(np.arange(40))
    run.close()
    encoder = Encoder(student, "student", dtype="float32")
    np.testing.assert_allclose(found[:20], encoder.encode(TEXTS[:20], "document"), atol=1e-5)
    np.testing.assert_allclose(found[20:], encoder.encode(TEXTS[20:40], "query"), atol=1e-5)


def test_tensorboard_gets_the_figures_of_the_log(bench):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bench.train(tensorboard=bench.folder / "events")
    events = EventAccumulator(str(bench.folder / "events"))
    events.Reload()
    lines = [line for line in logged(bench.folder / "run") if "loss" in line]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]
    assert [event.step for event in events.Scalars(bench.dev.metric)] == [0, 6, 12]


def test_tensorboard_that_is_not_installed_is_named_with_its_extra(bench, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"ibkd-retrieval\[tensorboard\]"):
        bench.train(tensorboard=bench.folder / "events")
