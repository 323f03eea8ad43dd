import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_models import sentences, tokenizer
from helpers.tiny_runs import corpus, finetuning, run, settings
from ibkd_retrieval.corpora.records import Corpus, Document
from ibkd_retrieval.distill.config import DistillConfig
from ibkd_retrieval.distill.data.batches import PairTexts
from ibkd_retrieval.distill.data.pairs import PairSet, TrainingPair
from ibkd_retrieval.distill.defaults import decided
from ibkd_retrieval.distill.dev_metric import neighbour_dev
from ibkd_retrieval.distill.sections import StudentConfig
from ibkd_retrieval.distill.teacher.cache import TeacherCache
from ibkd_retrieval.distill.teacher.soft_labels import (
    CrossEncoderLabels,
    CrossEncoderScores,
    TeacherLabels,
    soft_label_loss,
)
from ibkd_retrieval.distill.training.loop import StageRun
from ibkd_retrieval.distill.training.stage2 import FinetuneRun, finetune_student
from ibkd_retrieval.encoders.cross_encoder import PairScorer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.loading import load_sentence_transformer
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.progress import SILENT

TEXTS = sentences(150)
# Queries 0 and 1 share a positive; query 2 has two.
PAIRS = tuple(
    TrainingPair(
        " ".join(reversed(TEXTS[i].split()[:5])),
        (TEXTS[max(1, i)],) if i != 2 else (TEXTS[2], TEXTS[40]),
        (TEXTS[50 + i], TEXTS[51 + i], TEXTS[100]),
    )
    for i in range(40)
)


class Bench:
    def __init__(self, folder, bert, teacher):
        self.folder, self.bert = folder, bert
        self.cache = TeacherCache(folder / "cache", teacher)
        self.dev = neighbour_dev(tuple(TEXTS[:100]), teacher, size=20, seed=0)

    def train(self, name="run", student=None, *, resume=False, pairs=PAIRS, **changed):
        student = student or load_sentence_transformer(str(self.bert))
        result = finetune_student(
            student,
            self.cache,
            PairSet("p", pairs),
            corpus(),
            self.dev,
            finetuning(**changed),
            StageRun(self.folder / name, "teacher", resume),
        )
        return result, {key: value.clone() for key, value in student.state_dict().items()}

    def losses(self, name="run", key="loss"):
        lines = [json.loads(line) for line in (self.folder / name / "training-log.jsonl").read_text().splitlines()]
        return [line[key] for line in lines if key in line]


@pytest.fixture
def bench(tmp_path, bert, teacher):
    return Bench(tmp_path, bert, teacher)


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_batch_masks_every_passage_that_answers_a_query_but_the_one_drawn_for_it():
    texts = PairTexts(PAIRS)
    chosen = np.array([0, 1, 2, 39])
    for step in range(6):
        batch = texts.draw(chosen, 2, 0, step)
        words = [texts.texts.documents[i] for i in batch.passages]
        assert [texts.texts.queries[i - len(texts.texts.documents)] for i in batch.queries] == [
            PAIRS[i].query for i in chosen
        ]
        assert len(words) == 4 + 8
        for row, pair in enumerate(chosen):
            assert words[row] in PAIRS[pair].positives
            assert {words[j] for j in range(4, 12) if batch.owner[j] == row} <= set(PAIRS[pair].negatives)
            expected = [text in PAIRS[pair].positives and j != row for j, text in enumerate(words)]
            assert batch.answers[row].tolist() == expected
        again = texts.draw(chosen, 2, 0, step)
        assert (again.passages == batch.passages).all()
    drawn = [tuple(texts.draw(chosen, 2, 0, step).passages) for step in range(6)]
    assert len(set(drawn)) > 1


def test_the_contrast_is_its_formula_over_positives_and_negatives(bench, teacher):
    texts = PairTexts(PAIRS)
    student = load_sentence_transformer(str(bench.bert))
    run = FinetuneRun(student, texts, finetuning(batch_size=8, negatives=2, hsic_weight=0.0), None, SILENT)
    run.optimizer.step = lambda: None
    values = run.step(0, detailed=True)
    run.close()
    batch = texts.draw(run.schedule.batch(0), 2, 0, 0)
    queries = teacher.encode([texts.texts.queries[i - len(texts.texts.documents)] for i in batch.queries], "query")
    passages = teacher.encode([texts.texts.documents[i] for i in batch.passages])
    total = 0.0
    for i in range(8):
        each = [
            math.exp(float(queries[i] @ passage) / 0.05)
            for j, passage in enumerate(passages)
            if not batch.answers[i, j]
        ]
        total -= math.log(math.exp(float(queries[i] @ passages[i]) / 0.05) / sum(each))
    assert values["contrast"] == pytest.approx(total / 8, rel=1e-4)
    assert values["loss"] == pytest.approx(values["contrast"])


def test_soft_labels_are_the_divergence_over_the_candidates_that_have_one():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    labels[0, 2:] = labels[1, 0] = -math.inf
    total = 0.0
    for i in range(3):
        known = [j for j in range(5) if math.isfinite(labels[i, j])]
        p, q = (torch.softmax(each[i, known].detach(), 0) for each in (labels, student))
        total += float((p * (p / q).log()).sum())
    assert float(soft_label_loss(student, labels).detach()) == pytest.approx(total / 3, rel=1e-10)
    assert torch.autograd.gradcheck(lambda s: soft_label_loss(s, labels), (student,))
    assert float(soft_label_loss(labels, labels)) == pytest.approx(0)


def test_the_teachers_labels_are_its_cosines_over_tau(bench, teacher):
    texts = PairTexts(PAIRS)
    batch = texts.draw(np.arange(6), 1, 0, 0)
    found = TeacherLabels(bench.cache, texts, 0.1, SILENT).logits(batch)
    queries = teacher.encode([PAIRS[i].query for i in range(6)], "query")
    passages = teacher.encode([texts.texts.documents[i] for i in batch.passages])
    np.testing.assert_allclose(found, queries @ passages.T / 0.1, atol=0.02)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "cross"
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer()), max_position_embeddings=64, num_labels=1, **shape)
    config.initializer_range = 0.5
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_cross_encoders_scores_are_its_own_and_are_computed_once(cross_encoder, tmp_path, monkeypatch):
    from sentence_transformers import CrossEncoder

    texts = PairTexts(PAIRS[:5])
    scorer = CrossEncoderScores(str(cross_encoder), tmp_path, device="cpu", max_length=48)
    labels = CrossEncoderLabels(scorer, texts, SILENT)
    batch = texts.draw(np.arange(5), 2, 0, 0)
    found = labels.logits(batch)
    plain = CrossEncoder(str(cross_encoder), device="cpu", max_length=48)
    for (row, column), score in np.ndenumerate(found):
        if batch.owner[column] == row:
            words = [(PAIRS[row].query, texts.texts.documents[batch.passages[column]])]
            assert score == pytest.approx(plain.predict(words, activation_fn=torch.nn.Identity())[0], abs=1e-4)
        else:
            assert score == -np.inf
    monkeypatch.setattr(PairScorer, "score", None)
    again = CrossEncoderScores(str(cross_encoder), tmp_path, device="cpu", max_length=48)
    np.testing.assert_array_equal(CrossEncoderLabels(again, texts, SILENT).logits(batch), found)


def test_a_damaged_shard_of_scores_is_named_and_not_a_traceback(cross_encoder, tmp_path):
    scorer = CrossEncoderScores(str(cross_encoder), tmp_path, device="cpu", max_length=48)
    scorer.scores([("river", "bank"), ("cup", "dish")])
    (shard,) = tmp_path.rglob("*.npz")
    whole = shard.read_bytes()
    for damaged in (b"", whole[:40], whole[: len(whole) // 2], b"x" * len(whole)):
        shard.write_bytes(damaged)
        with pytest.raises(UserError, match=r"00000\.npz is damaged: delete"):
            CrossEncoderScores(str(cross_encoder), tmp_path, device="cpu", max_length=48)


def test_what_is_no_cross_encoder_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match="No model `nowhere`"):
        CrossEncoderScores("nowhere", tmp_path, device="cpu", max_length=48)
    with pytest.raises(UserError, match="is no cross-encoder"):
        CrossEncoderScores(str(bert), tmp_path, device="cpu", max_length=48)


@pytest.mark.parametrize("soft_labels", [None, "teacher", "cross"])
def test_fine_tuning_lowers_its_loss(bench, soft_labels, request):
    name = str(request.getfixturevalue("cross_encoder")) if soft_labels == "cross" else soft_labels
    result, _ = bench.train(steps=30, soft_labels=name, eval_every=0)
    losses = bench.losses()
    assert losses[-1] < losses[0]
    assert (bench.losses(key="soft") != []) == (soft_labels is not None)
    assert bench.losses(key="hsic_gradient")[0] > 0
    assert result.pairs == len(PairSet("p", PAIRS).without(bench.dev.texts).pairs) > 30
    assert result.negatives is None, "the pairs had negatives of their own"


@pytest.mark.parametrize("died_at", [2, 5, 11])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(bench, monkeypatch, died_at):
    options = {"soft_labels": "teacher", "dims": (32, 8)}
    whole, weights = bench.train("whole", **options)
    step = FinetuneRun.step

    def failing(self, at, *, detailed):
        if at == died_at:
            raise KeyboardInterrupt
        return step(self, at, detailed=detailed)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            bench.train("broken", **options)
    result, resumed = bench.train("broken", resume=True, **options)
    assert same(weights, resumed)
    assert result.loop.history == whole.loop.history
    with pytest.raises(UserError, match=r"differs in finetuning\.learning_rate\)"):
        bench.train("broken", resume=True, learning_rate=1.0, **options)


def test_queries_of_the_dev_set_are_left_out_and_too_few_pairs_refused(bench):
    pairs = (*PAIRS, TrainingPair(bench.dev.texts[0], (TEXTS[140],), (TEXTS[141],)))
    result, _ = bench.train(pairs=pairs, steps=1)
    assert result.pairs == len(PairSet("p", PAIRS).without(bench.dev.texts).pairs)
    with pytest.raises(UserError, match="Only 4 pairs for a batch of 8"):
        bench.train("few", pairs=tuple(p for p in PAIRS if p.positives[0] not in bench.dev.texts)[:4])


def test_nothing_of_the_dev_set_is_trained_on_or_mined(bench, monkeypatch):
    from ibkd_retrieval.distill.training import stage2 as finetune

    seen = []
    monkeypatch.setattr(
        finetune, "FinetuneRun", lambda student, texts, *rest: seen.append(texts) or FinetuneRun(student, texts, *rest)
    )
    held_out = set(bench.dev.texts)
    near = {text for pair in PAIRS for text in pair.positives} & held_out
    assert near, "else this proves nothing"
    bench.train(pairs=PLAIN.pairs, steps=1, negatives=150, negative_ranks=(1, 150))
    (texts,) = seen
    assert sum(len(negatives) for negatives in texts.negatives) > 500
    assert not held_out & {*texts.texts.documents, *texts.texts.queries}


def test_a_loss_that_is_no_number_stops_stage_two_at_its_last_good_checkpoint(bench, monkeypatch):
    from ibkd_retrieval.distill.training import stage2 as finetune_run

    infonce, calls = finetune_run.infonce, []

    def broken(*arguments, **options):
        calls.append(1)
        contrast = infonce(*arguments, **options)
        return contrast._replace(loss=contrast.loss * math.nan) if len(calls) == 7 else contrast

    monkeypatch.setattr(finetune_run, "infonce", broken)
    with pytest.raises(WorkFailed, match=r"step 6; the last good checkpoint is .*step-0000004.*`finetune_learning"):
        bench.train()
    checkpoint = load_file(bench.folder / "run" / "step-0000004" / "student.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.values())


def test_a_step_of_two_batches_has_the_mean_of_their_gradients(bench):
    def gradient(batches, accumulate):
        student = load_sentence_transformer(str(bench.bert))
        changed = finetuning(batch_size=8, accumulate=accumulate)
        run = FinetuneRun(student, PairTexts(PAIRS), changed, None, SILENT)
        plain, draw = run.schedule.batch, run.texts.draw
        run.schedule.batch = lambda number: plain(batches[number])
        run.texts.draw = lambda chosen, negatives, seed, number: draw(chosen, negatives, seed, batches[number])
        run.optimizer.step = lambda: None
        values = run.step(0, detailed=True)
        run.close()
        size = values["gradient"]
        # Undone: the clipping to norm 1.
        parts = [p.grad.flatten() for p in run.module.parameters() if p.grad is not None]
        return torch.cat(parts) * max(1.0, size), values["loss"]

    (first, loss_1), (second, loss_2) = gradient([0], 1), gradient([1], 1)
    both, loss = gradient([0, 1], 2)
    assert loss == pytest.approx((loss_1 + loss_2) / 2, rel=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-3, atol=1e-4)


PLAIN = PairSet("p", tuple(TrainingPair(pair.query, pair.positives) for pair in PAIRS))


def test_both_stages_make_one_folder_that_says_so_and_a_kill_in_the_second_costs_nothing(bert, tmp_path, monkeypatch):
    options = {"stage": "both", "pairs": PLAIN, "finetuning": finetuning()}
    run(bert, tmp_path, output="whole", **options)
    facts = json.loads((tmp_path / "whole" / "ibkd.json").read_text())
    assert facts["stage"] == "both"
    assert facts["finetuning"]["settings"]["steps"] == 12
    assert facts["finetuning"]["history"][-1]["value"] == facts["student"]["dev"]
    assert f"Fine-tuned on {facts['finetuning']['queries']} queries" in (tmp_path / "whole" / "README.md").read_text()
    assert (tmp_path / "whole" / "finetuning-log.jsonl").is_file()
    assert not (tmp_path / "whole" / "projection.safetensors").exists()
    encoder = Encoder.load(str(tmp_path / "whole"), device="cpu", dtype="float32")
    assert encoder.weight_hash == facts["student"]["weight_hash"]
    step = FinetuneRun.step

    def failing(self, at, *, detailed):
        if at == 6:
            raise KeyboardInterrupt
        return step(self, at, detailed=detailed)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            run(bert, tmp_path, output="broken", **options)
    run(bert, tmp_path, output="broken", resume=True, **options)
    for name in ("whole", "broken"):
        assert not (tmp_path / name / "checkpoints").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 500}, "pairs for a batch of 500: give more pairs"),
        ({"soft_labels": "nosuch/at/all"}, "No model at nosuch/at/all"),
    ],
)
def test_what_would_stop_the_second_stage_is_told_before_the_first(bert, tmp_path, changed, said):
    with pytest.raises(UserError, match=said):
        run(bert, tmp_path, stage="both", pairs=PLAIN, finetuning=finetuning(**changed))
    assert not list((tmp_path / "student").rglob("*"))


def test_as_many_negatives_are_mined_as_a_step_is_to_draw_and_the_card_says_how_many_were(bert, tmp_path):
    changed = finetuning(steps=1, eval_every=0, negatives=20, negative_ranks=(1, 150))
    report = run(bert, tmp_path, stage="finetune", pairs=PLAIN, finetuning=changed)
    (mined,) = (tmp_path / "cache").glob("*/mining/negatives-*.jsonl")
    counts = [len(json.loads(line)["negatives"]) for line in mined.read_text().splitlines()]
    assert 16 < max(counts) <= 20
    mean = sum(counts) / len(counts)
    assert report.finetuning.negatives_a_query == pytest.approx(mean)
    assert f"{mean:.3g} hard negatives each on average" in (tmp_path / "student" / "README.md").read_text()


def test_hard_negatives_are_mined_where_the_pairs_were_judged(bert, tmp_path):
    texts = sentences(60, seed=9)
    other = Corpus("other", 60, lambda: [Document(f"o{i}", text) for i, text in enumerate(texts)])
    changed = finetuning(steps=1, eval_every=0, negative_ranks=(1, 60))
    run(bert, tmp_path, stage="finetune", pairs=PLAIN, pair_corpus=other, finetuning=changed)
    (mined,) = (tmp_path / "cache").glob("*/mining/negatives-*.jsonl")
    found = [each for line in mined.read_text().splitlines() for each in json.loads(line)["negatives"]]
    assert len(found) > 100
    assert {each["text"] for each in found} <= set(texts)


def test_fine_tuning_alone_starts_from_the_student_given(bert, tmp_path):
    report = run(
        bert, tmp_path, stage="finetune", plan=StudentConfig(str(bert)), pairs=PLAIN, finetuning=finetuning(steps=2)
    )
    assert report.undistilled_dev == 1.0, "the student is its teacher"
    assert report.stage == "finetune"
    assert "distilled from" not in (tmp_path / "student" / "README.md").read_text()


def test_a_stage_that_lacks_something_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match="Unknown stage `third`: use one of distill, finetune, both"):
        run(bert, tmp_path, stage="third")
    with pytest.raises(UserError, match="name them with `pairs`"):
        run(bert, tmp_path, stage="both")
    with pytest.raises(UserError, match="leave `output_space` out"):
        run(bert, tmp_path, stage="both", pairs=PLAIN, settings=settings(output_space="teacher"))
    with pytest.raises(UserError, match="`pairs` is for fine-tuning"):
        run(bert, tmp_path, pairs=PLAIN)
    with pytest.raises(UserError, match="none holds the vectors of 2 side by side"):
        run(bert, tmp_path, further_teachers=[str(bert)], settings=settings(output_space="teacher"))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"negatives": -1},
        {"learning_rate": 0.0},
        {"temperature": math.nan},
        {"hsic_weight": -1.0},
        {"soft_weight": math.inf},
        {"patience": 1, "eval_every": 0},
    ],
)
def test_settings_out_of_range_are_user_errors(wrong):
    with pytest.raises(UserError):
        finetuning(**wrong)


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"steps": 0}, "`finetune_steps`"),
        ({"batch_size": 1}, "`finetune_batch_size`"),
        ({"learning_rate": 0.0}, "`finetune_learning_rate`"),
        ({"temperature": 0.0}, "`finetune_temperature`"),
        ({"hsic_weight": -1.0}, "`finetune_hsic_weight`"),
        ({"negatives": -1}, "`negatives`"),
        ({"soft_weight": -1.0}, "`soft_weight`"),
        ({"accumulate": 0}, "`accumulate`"),
        ({"max_length": 1}, "`max_length`"),
        ({"checkpoint_every": 0}, "`checkpoint_every`"),
    ],
)
def test_a_setting_out_of_range_is_named_as_its_option_is(wrong, option):
    from typer.main import get_command

    from ibkd_cli.app import app

    with pytest.raises(UserError, match=f"^{option} is "):
        finetuning(**wrong)
    assert option.strip("`") in [each.name for each in get_command(app).commands["distill"].params]


def test_the_paper_preset_has_the_published_settings():
    given = {"stage": "finetune", "preset": "paper", "finetune_steps": 7, "negative_margin": 0.1}
    found = decided(DistillConfig().with_parameters(**given)).finetuning_record()
    assert [found[name] for name in ("hsic_weight", "temperature", "hsic_bandwidth")] == [1.0, 0.05, 1.0]
    assert [found[name] for name in ("learning_rate", "batch_size", "max_length", "steps")] == [1e-6, 128, 128, 7]
