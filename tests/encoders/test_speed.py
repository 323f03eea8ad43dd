import numpy as np
import pytest

from helpers.tiny_models import sentences
from ibkd_retrieval.encoders.autotune.benchmark import first_tokens, measure_speed, texts_for
from ibkd_retrieval.encoders.autotune.choice import BackendConfig
from ibkd_retrieval.encoders.autotune.cpu import processor_features
from ibkd_retrieval.encoders.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(bert):
    return Encoder.load(str(bert), device="cpu", dtype="float32")


def test_operations_are_those_that_torch_counts(encoder, bert):
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    texts = [*sentences(5), "river"]
    # The counter does not know torch's fused attention.
    model = AutoModel.from_pretrained(bert, add_pooling_layer=False, attn_implementation="eager")
    counted = 0
    for text in texts:
        ids = encoder._model.tokenizer(text, return_tensors="pt")["input_ids"]
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids)
        counted += counter.get_total_flops()
    assert encoder.operations(texts) == counted


def test_a_text_is_cut_to_the_tokens_asked_for(encoder):
    text = " ".join(sentences(9, longest=9))
    for most in (3, 8, 32):
        cut = first_tokens(encoder, text, most)
        longer = " ".join(text.split()[: len(cut.split()) + 1])
        assert text.startswith(cut)
        assert encoder.token_counts([cut])[0] <= most < encoder.token_counts([longer])[0]
    assert first_tokens(encoder, "abcdefgh", 3) == "abcdefgh"


def test_few_texts_are_timed_over_and_over_until_most_are_computed_side_by_side(bert):
    from types import SimpleNamespace

    from ibkd_retrieval.encoders.autotune.benchmark import filling_threads
    from ibkd_retrieval.encoders.tokens import token_budget_batches

    counting = Encoder.load(str(bert), device="cpu", dtype="float32")
    texts = sentences(64)
    for threads, budget in ((2, 4096), (4, 4096), (4, 300)):
        several = SimpleNamespace(batches_at_once=threads, batch_tokens=budget, token_counts=counting.token_counts)
        many = filling_threads(several, texts)
        batches = len(list(token_budget_batches(counting.token_counts(many), budget)))
        assert 4 * threads <= batches <= 4 * threads + 4
        assert set(many) == set(texts)
    assert filling_threads(several, sentences(2000)) == sentences(2000)
    assert filling_threads(several, []) == []
    alone = SimpleNamespace(batches_at_once=1, batch_tokens=4096, token_counts=counting.token_counts)
    assert filling_threads(alone, texts) == texts


def test_what_is_timed_runs_in_threads(bert, monkeypatch):
    import torch

    from ibkd_retrieval.encoders import threads
    from ibkd_retrieval.encoders.autotune import choice

    ran = []
    in_threads = threads._in_threads
    monkeypatch.setattr(
        threads, "_in_threads", lambda work, items, *more: ran.append(items) or in_threads(work, items, *more)
    )
    torch.set_num_threads(2)
    try:
        two = Encoder.load(str(bert), device="cpu", dtype="float32", batch_tokens=512)
        measured = choice.measure({BackendConfig("torch", "float32"): two}, sentences(8), rounds=2)
        assert list(map(len, ran)) == [8, 8]
        measure_speed({BackendConfig("torch", "float32"): two}, texts_for(two, sentences(8), queries=1), rounds=1)
        assert len(ran) == 4
        assert measured[0].mean_cosine == pytest.approx(1.0)
    finally:
        torch.set_num_threads(1)


def test_speeds_are_of_what_was_asked_for(encoder, bert):
    half = Encoder.load(str(bert), device="cpu", dtype="bfloat16")
    texts = texts_for(encoder, sentences(12), queries=3)
    exact, rounded = measure_speed(
        {BackendConfig("torch", "float32"): encoder, BackendConfig("torch", "bfloat16"): half}, texts, rounds=1
    )
    assert exact.mean_cosine == pytest.approx(1.0)
    assert rounded.least_cosine < exact.least_cosine
    assert set(exact.queries) == {8, 32}
    assert 0 < exact.queries[8].p50 <= exact.queries[8].p95
    assert exact.operations_per_second == pytest.approx(encoder.operations(texts.long) * exact.long_per_second / 12)
    assert 0 < exact.share_of_peak < 2
    assert np.isfinite(rounded.short_per_second)
    assert rounded.peak is None or "amx" in processor_features() or "avx512_bf16" in processor_features()
