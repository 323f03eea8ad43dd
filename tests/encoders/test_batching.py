import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_models import save_sentence_transformer
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.tokens import default_batch_tokens, token_budget_batches, tokenize

lengths_and_budget = st.tuples(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 300))


@given(lengths_and_budget)
def test_every_position_is_in_exactly_one_batch(case):
    lengths, budget = case
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))


@given(lengths_and_budget)
def test_no_padded_batch_exceeds_the_budget_unless_it_is_one_text(case):
    lengths, budget = case
    for batch in token_budget_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(lengths_and_budget)
def test_longest_texts_come_first(case):
    lengths, budget = case
    in_order = [lengths[row] for batch in token_budget_batches(lengths, budget) for row in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_no_texts_give_no_batches():
    assert list(token_budget_batches(np.array([], dtype=np.int64), 10)) == []


def test_a_gpu_is_given_more_tokens_at_a_time_than_a_processor():
    assert default_batch_tokens("cuda:1") > default_batch_tokens("cpu") > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Encoder.load(save_sentence_transformer(tmp_path_factory.mktemp("tiny")), device="cpu")._model


@pytest.mark.parametrize(
    "text",
    [
        "river bank boat " * 4000,
        " " * 30_000 + "river bank boat",
        "river\n" * 20_000,
        "x" * 30_000,
        "bank" + " " * 30_000,
    ],
    ids=["words", "white space first", "lines", "one word", "white space last"],
)
def test_a_long_text_has_the_tokens_that_the_whole_of_it_has(model, text):
    due = model.tokenizer(text, truncation=True)["input_ids"]
    assert tokenize(model, ["boat", text, "river"])[1] == due


def test_no_more_of_a_long_text_is_tokenised_than_the_model_reads(model):
    text = "river bank boat " * 200_000
    began = time.perf_counter()
    model.tokenizer(text)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    tokenize(model, [text])
    assert time.perf_counter() - began < whole / 10
